-- wrk script: PUT of 100-byte values to unique keys, or GET of them (first argument: put | get).
-- (wrk calls request() once before it sends anything, so the first key is never stored.)
--   wrk -t2 -c64 -d10s -s scripts/bench_http.lua http://127.0.0.1:7411 -- put
local body = string.rep("x", 100)
local threads = 0
function setup(thread) thread:set("id", threads); threads = threads + 1 end
function init(args) mode = args[1] or "put"; count = 0 end
function request()
  count = count + 1
  if mode == "put" then
    return wrk.format("PUT", "/v1/kv/bench/wrk/" .. id .. "-" .. count, nil, body)
  end
  return wrk.format("GET", "/v1/kv/bench/wrk/" .. id .. "-" .. (count % 1000 + 2))
end
function response(status) if status ~= 200 then failed = (failed or 0) + 1 end end
function done(summary, latency, requests)
  io.write(string.format("p50 %.2f ms, p99 %.2f ms, not 2xx: %d\n",
    latency:percentile(50) / 1000, latency:percentile(99) / 1000, summary.errors.status))
end
