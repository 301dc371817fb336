-- Gives the partition its epoch. Nothing changes while the same run of the server holds it.
-- A server that was started again may have been rolled back, and a head that is missing was
-- wiped: both begin a new epoch, whose numbers lie far above all that were ever given.
--
-- The numbers of the partitions lie apart, each a stride of 2^28 from the next: a client that
-- knows one number only, and not whose, is then understood.
--
-- KEYS  1 head, 2 journal        ARGV  1 highest number the caller ever saw, 2 the partition
-- Returns epoch, seq, 1 when the epoch is new.
local call, fmt = redis.call, string.format
local info = redis.pcall('INFO', 'server')
local run = type(info) == 'string' and string.match(info, 'run_id:(%x+)') or 'none'
local state = call('HMGET', KEYS[1], 'epoch', 'seq', 'run')
if state[1] and state[3] == run then return { tonumber(state[1]), tonumber(state[2]), 0 } end

local tail = call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)
local highest = math.max(tonumber(state[2] or 0), tonumber(ARGV[1]),
  tail[1] and tonumber(string.match(tail[1][1], '^%d+')) or 0)
local clock = call('TIME')
local base = ((clock[1] - 1735689600) * 1000 + math.floor(clock[2] / 1000)) * 8192 + ARGV[2] * 268435456
if base <= highest then base = highest + 8192 end

local fields = { 'epoch', fmt('%d', base), 'seq', fmt('%d', base), 'run', run }
if highest > 0 and highest ~= tonumber(state[1] or 0) then -- the old epoch has events
  fields[7], fields[8] = 'ended', fmt('%d', highest)
end
call('HSET', KEYS[1], unpack(fields))
return { base, base, 1 }
