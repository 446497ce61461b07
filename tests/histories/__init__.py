"""Histories of what clients did and were told, and the checkers that judge them."""
