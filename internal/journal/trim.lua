-- Frees what one partition no longer owes: journal entries older than the replay window, and
-- an outdated dedupe bucket. Redis allows it when it is out of memory.
--
-- KEYS  1 head, 2 journal, 3 times, 4 outdated dedupe bucket
-- ARGV  1 replay window in ms, 2 journal max
-- Returns the number of journal entries removed.
local call, fmt = redis.call, string.format
local state = call('HMGET', KEYS[1], 'seq', 'last')
local seq, last = tonumber(state[1] or 0), tonumber(state[2] or 0)
local clock = call('TIME')
local cut = clock[1] * 1000 + math.floor(clock[2] / 1000) - tonumber(ARGV[1])
local floor = seq
if last > cut then
  floor = tonumber(call('ZREVRANGEBYSCORE', KEYS[3], fmt('%d', cut), '-inf', 'LIMIT', 0, 1)[1] or 0)
end
local removed = call('XTRIM', KEYS[2], 'MAXLEN', ARGV[2])
if floor > 0 then removed = removed + call('XTRIM', KEYS[2], 'MINID', fmt('%d', floor + 1)) end
local left = call('PTTL', KEYS[4])
if left >= 0 and left < 60000 then call('UNLINK', KEYS[4]) end
return removed
