"""The grammar of the subset of openCypher that is offered, LALR(1), for lark.

Keywords are reserved where an expression may stand, and free as labels, types and names of
properties; any name may stand in backquotes.
"""

from __future__ import annotations

import re
from typing import Final

# What openCypher or its relatives have and this subset has not: refused by name.
NOT_OFFERED: Final = re.compile(
    r"(UNION|CALL|FOREACH|LOAD|USE|FINISH|COUNT|COLLECT|shortestPath|allShortestPaths|any"
    r"|all|none|single|reduce|filter|extract|INDEX|CONSTRAINT|DROP|ALTER|SHOW|PROFILE|YIELD)\b",
    re.IGNORECASE,
)

GRAMMAR: Final = r"""
start: explain? clause+ ";"?
explain: _EXPLAIN
?clause: match | unwind | project | create | merge | update | delete

match: optional? _MATCH paths where?
optional: _OPTIONAL
where: _WHERE expression
unwind: _UNWIND expression _AS variable
project: _RETURN body -> returned
       | _WITH body where? -> passed
body: distinct? columns order? skip? limit?
distinct: _DISTINCT
columns: star ("," column)* | column ("," column)*
star: "*"
column: expression (_AS name)?
order: _ORDER _BY sort ("," sort)*
sort: expression (_ASC | _ASCENDING)? -> ascending
    | expression (_DESC | _DESCENDING) -> descending
skip: _SKIP expression
limit: _LIMIT expression
create: _CREATE paths
merge: _MERGE path merging*
merging: _ON _CREATE _SET changes -> on_create
       | _ON _MATCH _SET changes -> on_match
changes: change ("," change)*
?change: property "=" expression -> set_property
       | variable "=" expression -> set_properties
       | variable "+=" expression -> add_properties
       | variable labels -> set_labels
property: primary "." name
update: _SET changes
      | _REMOVE removal ("," removal)*
?removal: property -> remove_property
        | variable labels -> remove_labels
delete: _DELETE expression ("," expression)* -> deleted
      | _DETACH _DELETE expression ("," expression)* -> detached

paths: path ("," path)*
path: (variable "=")? chain
chain: node (edge node)*
node: "(" variable? labels? wanted? ")"
labels: (":" name)+
wanted: map | parameter
edge: "<" "-" detail? "-" -> edge_in
    | "-" detail? "-" ">" -> edge_out
    | "-" detail? "-" -> edge_both
    | "<" "-" detail? "-" ">" -> edge_any
detail: "[" variable? types? hops? wanted? "]"
types: ":" name ("|" ":"? name)*
hops: "*" -> hops_any
    | "*" INTEGER -> hops_exact
    | "*" INTEGER? RANGE INTEGER? -> hops_range

?expression: disjunction
?disjunction: exclusion
            | exclusion (_OR exclusion)+ -> any_of
?exclusion: conjunction
          | conjunction (_XOR conjunction)+ -> odd_of
?conjunction: negation
            | negation (_AND negation)+ -> all_of
?negation: _NOT negation -> negated
         | comparison
?comparison: predicate
           | predicate (comparator predicate)+ -> compared
!comparator: "=" | "<>" | "<" | "<=" | ">" | ">="
?predicate: sum
          | predicate _IN sum -> is_in
          | predicate _STARTS _WITH sum -> starts_with
          | predicate _ENDS _WITH sum -> ends_with
          | predicate _CONTAINS sum -> contains
          | predicate _IS _NULL -> is_null
          | predicate _IS _NOT _NULL -> is_not_null
?sum: product
    | sum "+" product -> added
    | sum "-" product -> subtracted
?product: sign
        | product "*" sign -> multiplied
        | product "/" sign -> divided
        | product "%" sign -> remainder
?sign: "-" sign -> minus
     | "+" sign -> plus
     | labelled
?labelled: primary
         | primary labels -> has_labels
?primary: atom
        | property -> property_of
        | primary "[" expression "]" -> element
        | primary "[" expression? RANGE expression? "]" -> slice
?atom: INTEGER -> integer
     | FLOAT -> decimal
     | STRING -> text
     | _TRUE -> true
     | _FALSE -> false
     | _NULL -> null
     | parameter
     | variable
     | variable "(" arguments? ")" -> call
     | variable "(" _DISTINCT arguments ")" -> call_distinct
     | variable "(" "*" ")" -> call_star
     | "[" arguments? "]" -> list_of
     | map
     | case
     | _EXISTS "{" _MATCH? paths where? "}" -> exists
     | "(" expression ")"
arguments: expression ("," expression)*
map: "{" (pair ("," pair)*)? "}"
pair: name ":" expression
case: _CASE expression? when+ otherwise? _END
when: _WHEN expression _THEN expression
otherwise: _ELSE expression
parameter: "$" (name | INTEGER)
variable: NAME
name: NAME

_EXISTS.3: /exists(?=\s*\{)/i
_EXPLAIN.2: /explain\b/i
_OPTIONAL.2: /optional\b/i
_MATCH.2: /match\b/i
_WHERE.2: /where\b/i
_UNWIND.2: /unwind\b/i
_AS.2: /as\b/i
_WITH.2: /with\b/i
_RETURN.2: /return\b/i
_DISTINCT.2: /distinct\b/i
_ORDER.2: /order\b/i
_BY.2: /by\b/i
_ASC.2: /asc\b/i
_ASCENDING.2: /ascending\b/i
_DESC.2: /desc\b/i
_DESCENDING.2: /descending\b/i
_SKIP.2: /skip\b/i
_LIMIT.2: /limit\b/i
_CREATE.2: /create\b/i
_MERGE.2: /merge\b/i
_ON.2: /on\b/i
_SET.2: /set\b/i
_REMOVE.2: /remove\b/i
_DETACH.2: /detach\b/i
_DELETE.2: /delete\b/i
_AND.2: /and\b/i
_OR.2: /or\b/i
_XOR.2: /xor\b/i
_NOT.2: /not\b/i
_IN.2: /in\b/i
_STARTS.2: /starts\b/i
_ENDS.2: /ends\b/i
_CONTAINS.2: /contains\b/i
_IS.2: /is\b/i
_NULL.2: /null\b/i
_TRUE.2: /true\b/i
_FALSE.2: /false\b/i
_CASE.2: /case\b/i
_WHEN.2: /when\b/i
_THEN.2: /then\b/i
_ELSE.2: /else\b/i
_END.2: /end\b/i
NAME: /[^\W\d]\w*/ | /`(?:[^`]|``)+`/
INTEGER: /[0-9]+/
FLOAT.2: /[0-9]+(?:\.[0-9]+(?:[eE][+-]?[0-9]+)?|[eE][+-]?[0-9]+)(?![\w.])/
RANGE.3: ".."
STRING: /'(?:[^'\\]|\\.)*'/s | /"(?:[^"\\]|\\.)*"/s
%ignore /\s+/
%ignore /\/\/[^\n]*/
%ignore /\/\*(?s:.*?)\*\//
"""
