-- Reads a page of a user's replay set, oldest first.
--
-- KEYS  1 head, 2 journal, 3 times, 4 replay set
-- ARGV  1 after, 2 limit, 3 replay window in ms, 4 replay max, 5 bytes to stop at
-- Returns epoch, complete, more and the newest number, then seq, numbers and body of each event.
local call, fmt = redis.call, string.format
local after, limit = tonumber(ARGV[1]), tonumber(ARGV[2])
local state = call('HMGET', KEYS[1], 'epoch', 'seq', 'last')
local epoch, seq, last = tonumber(state[1] or 0), tonumber(state[2] or 0), tonumber(state[3] or 0)
local clock = call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local span, floor = tonumber(ARGV[3]), 0
if last <= now - span then
  floor = seq
else
  floor = tonumber(call('ZREVRANGEBYSCORE', KEYS[3], fmt('%d', now - span), '-inf', 'LIMIT', 0, 1)[1] or 0)
end

local extra = call('ZREVRANGE', KEYS[4], ARGV[4], ARGV[4])[1] -- the newest one beyond replay max
floor = math.max(floor, tonumber(extra or 0))

local from = math.max(after, floor)
local found = call('ZRANGEBYSCORE', KEYS[4], '(' .. fmt('%d', from), '+inf', 'LIMIT', 0, limit + 1)
local out, more, bytes, lost = { epoch, 0, 0, seq }, 0, 0, false
for i = 1, #found do
  if i > limit or bytes >= tonumber(ARGV[5]) then more = 1; break end
  local entry = call('XRANGE', KEYS[2], found[i], found[i])[1]
  if entry then
    out[#out + 1] = found[i]
    out[#out + 1] = entry[2][2]
    out[#out + 1] = entry[2][4]
    bytes = bytes + #entry[2][4]
  else
    lost = true
  end
end

-- Complete: nothing of this epoch after `after` left the set. It shows in one of these: an
-- event up to `after` is still there; `after` is inside the window and the count did not
-- trim, as the first one's predecessor tells; the predecessor is known and not later.
local complete = after == 0
if after > 0 and epoch > 0 and after >= epoch and after <= seq then
  if after < floor and call('ZCOUNT', KEYS[4], '(' .. fmt('%d', after), fmt('%d', floor)) > 0 then
    complete = false
  elseif call('ZCOUNT', KEYS[4], '-inf', fmt('%d', after)) > 0 then
    complete = true
  elseif #found == 0 then
    complete = after >= floor
  elseif #out > 4 then
    local back = tonumber(string.match(out[6], '^%d+'))
    local before = tonumber(out[5]) - back
    if back == 0 then complete = after >= floor else complete = before <= after end
  end
end
out[2] = complete and not lost and 1 or 0
out[3] = more
return out
