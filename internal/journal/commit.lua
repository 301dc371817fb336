-- Stores batches, each of one partition: drops repeats, numbers the rest, adds them to the journal
-- and to the users' replay sets, and notes how far the batch's source has come. Everything of a
-- batch is read and checked before its first write, as Redis does not roll back. The first write is
-- one that Redis refuses when it is out of memory, so that a full server stores nothing rather than
-- a part. Several batches in one call share what a call costs; each is stored or fails by itself.
--
-- ARGV begins with the number of batches, and for each of them how many KEYS and how many ARGV it
-- has. Those of one batch after the other follow:
--
-- KEYS  1 head, 2 journal, 3 times, 4-7 dedupe buckets of the caller's clock: previous,
--       current, next, outdated, 8 sources; then the other dedupe buckets and the replay sets
-- ARGV  1 events, 2 dedupe window, 3 replay window, 4 replay max, 5 journal max,
--       6 journal age, 7 tick (times in ms); 8 source ('': none), 9 and 10 the first and last
--       number of the batch within its source (last < first: only asks), 11 whether nothing
--       before the first is kept any more (0 or 1), 12 the epoch in which alone it may be stored
--       (0: any), 13 and 14 how long a silent source is remembered, in s, when the same one
--       began a new log since then, and otherwise, 15 how many numbers before the first were never
--       used; then 5 for each event: id, key of its dedupe bucket (0: by the clock), key of its
--       replay set (0: none), whether it goes into that set (0 or 1), body; then, with a source,
--       each event's number
-- Returns for each batch an error's text, or the epoch, the source's last number, whether the batch left
-- a gap after it or came in another epoch (0 or 1; 1: nothing was stored, and nothing follows), how
-- many numbers were left out for good; then for each event: seq (negative: a repeat; 0: a repeat
-- whose seq is forgotten), previous seq of the user, previous seq of the feed.
local call, fmt, min = redis.call, string.format, math.min
local CHUNK = 1000 -- arguments a call, below what Lua can unpack
local FIRST = 16   -- argument of a batch's first event
local BASE, RENEWED = '', '\1' -- fields of a bucket that no id can be: what its numbers begin at, and when its time was renewed
local info = redis.pcall('INFO', 'server')
local run = type(info) == 'string' and string.match(info, 'run_id:(%x+)') or 'none'
local clock = call('TIME')

local function commit(KEYS, ARGV)
  local head, journal, times = KEYS[1], KEYS[2], KEYS[3]
  local n, dedupe, window = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
  local age, tick = tonumber(ARGV[6]), tonumber(ARGV[7])
  local source, from, upto = ARGV[8], tonumber(ARGV[9]), tonumber(ARGV[10])

  local state = call('HMGET', head, 'epoch', 'seq', 'feed', 'run', 'last', 'tick', 'floor', 'ticked')
  if not state[1] then return 'NOEPOCH the partition has no head' end
  if state[4] ~= run then return 'NEWRUN the server was started again' end
  local epoch, seq, feed = tonumber(state[1]), tonumber(state[2]), tonumber(state[3] or 0)
  local last, ticked = tonumber(state[5] or 0), tonumber(state[6] or 0)
  local at, tickseq = string.match(state[8] or '', '^(%d+),(%d+)$') -- the last tick, and the newest number then
  tickseq = tonumber(at) == ticked and tonumber(tickseq) or seq -- older workers do not write it
  local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
  local setback = now < last -- the clock may be set back; the order of numbers is not. No tick is due then
  if setback then now = last end

  -- 0. how far the source has come
  local applied, skipped, advances, stale = 0, 0, false, {}
  if source ~= '' then
    local kept = call('HGET', KEYS[8], source)
    applied = kept and tonumber(string.match(kept, '^%d+')) or 0
    if from <= upto then
      if ARGV[12] ~= '0' and tonumber(ARGV[12]) ~= epoch then return { epoch, applied, 1, 0 } end
      local missing = from - tonumber(ARGV[15]) - applied - 1
      if missing > 0 then
        if ARGV[11] ~= '1' then return { epoch, applied, 1, 0 } end
        if kept then skipped = missing end
      end
      advances = upto > applied
      if advances and not kept then -- a new one: time to look for old ones
        local all, name = call('HGETALL', KEYS[8]), string.match(source, '^(.*/)%d+$')
        for i = 1, #all, 2 do
          local when = tonumber(string.match(all[i + 1], ',(%d+)$') or 0)
          local same = name and string.match(all[i], '^(.*/)%d+$') == name
          if when < clock[1] - ARGV[same and 13 or 14] and #stale < CHUNK then stale[#stale + 1] = all[i] end
        end
      end
    end
  end
  local function progress()
    if not advances then return end
    call('HSET', KEYS[8], source, fmt('%d,%d', upto, clock[1]))
    if #stale > 0 then call('HDEL', KEYS[8], unpack(stale)) end
  end

  -- the newest number that was stored longer ago than span, and when
  local function outdated(span)
    if last <= now - span then return seq, last end
    local found = call('ZREVRANGEBYSCORE', times, fmt('%d', now - span), '-inf', 'WITHSCORES', 'LIMIT', 0, 1)
    return tonumber(found[1] or 0), tonumber(found[2] or 0)
  end
  -- that of the replay window, which the head keeps until the next number gets out of it
  local floor, horizon, span = string.match(state[7] or '', '^(%d+),(%d+),(%d+)$')
  floor = tonumber(floor)
  local moved = not floor or tonumber(span) ~= window or now >= tonumber(horizon)
  if moved or last <= now - window then
    floor = outdated(window)
    local next = call('ZRANGEBYSCORE', times, '(' .. fmt('%d', now - window), '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
    horizon = (tonumber(next[2]) or last) + window
  end

  -- 1. what is known already: seq by event, from the buckets
  local known, bases, renewed, byclock, bybucket = {}, {}, {}, {}, {}
  for i = 1, n do
    local bucket = ARGV[FIRST + 5 * (i - 1) + 1]
    if bucket == '0' then
      byclock[#byclock + 1] = i
    else
      local list = bybucket[bucket]
      if not list then list = {}; bybucket[bucket] = list end
      list[#list + 1] = i
    end
  end
  local function recall(bucket, list)
    local key = KEYS[tonumber(bucket)]
    for from = 1, #list, CHUNK do
      local upto, ids = min(from + CHUNK - 1, #list), {}
      for i = from, upto do ids[#ids + 1] = ARGV[FIRST + 5 * (list[i] - 1)] end
      local got = call('HMGET', key, BASE, RENEWED, unpack(ids))
      if got[1] then bases[bucket], renewed[bucket] = tonumber(got[1]), tonumber(got[2] or 0) end
      for i = from, upto do
        local first = got[i - from + 3]
        if first then known[list[i]] = bases[bucket] + tonumber(first) end
      end
    end
  end
  for bucket, list in pairs(bybucket) do recall(bucket, list) end
  if #byclock > 0 then
    recall('4', byclock); recall('5', byclock); recall('6', byclock)
    bybucket['5'] = byclock
  end

  -- 2. numbers
  local out, seen, newest, earlier, s = { epoch, advances and upto or applied, 0, skipped }, {}, {}, {}, seq
  for i = 1, n do
    local at, o = FIRST + 5 * (i - 1), 2 + 3 * i
    local id, user = ARGV[at], ARGV[at + 2]
    local first = known[i] or seen[id]
    if not first and source ~= '' and tonumber(ARGV[FIRST + 5 * n + i - 1]) <= applied then first = 0 end
    if first then
      known[i] = first
      out[o], out[o + 1], out[o + 2] = -first, 0, 0
    else
      s = s + 1
      seen[id] = s
      local before = newest[user]
      if not before then
        before = 0
        if user ~= '0' then before = tonumber(call('ZREVRANGE', KEYS[tonumber(user)], '0', '0')[1] or 0) end
        earlier[user] = before
      end
      newest[user] = before
      out[o] = s
      out[o + 1] = before > floor and before or 0
      out[o + 2] = feed > floor and feed or 0
      if ARGV[at + 3] == '1' then feed, newest[user] = s, s end
    end
  end
  if s == seq then
    progress()
    return out
  end

  -- 3. writes: first the number, so that none is ever given twice
  local due = now - ticked >= tick
  local fields = { 'seq', fmt('%d', s), 'feed', fmt('%d', feed), 'last', fmt('%d', now) }
  if due then
    fields[7], fields[8], fields[9], fields[10] = 'tick', fmt('%d', now), 'ticked', fmt('%d,%d', now, s)
  end
  if moved then fields[#fields + 1], fields[#fields + 2] = 'floor', fmt('%d,%d,%d', floor, horizon, window) end
  call('HSET', head, unpack(fields))
  progress()
  local adds = {}
  for i = 1, n do
    if not known[i] then
      local at, o = FIRST + 5 * (i - 1), out[2 + 3 * i]
      local user, prev, before = ARGV[at + 2], out[3 + 3 * i], out[4 + 3 * i]
      local number = fmt('%d', o)
      call('XADD', journal, number, 'm', fmt('%d,%d,%d', prev > 0 and o - prev or 0,
        before > 0 and o - before or 0, o - epoch), 'e', ARGV[at + 4])
      if ARGV[at + 3] == '1' then
        local list = adds[user]
        if not list then list = {}; adds[user] = list end
        list[#list + 1] = number
        list[#list + 1] = number
      end
    end
  end
  local lifetime, bottom, beyond = fmt('%d', window + 3 * tick), fmt('%d', floor), fmt('%d', -ARGV[4] - 1)
  for user, list in pairs(adds) do
    local key = KEYS[tonumber(user)]
    for from = 1, #list, CHUNK do call('ZADD', key, unpack(list, from, min(from + CHUNK - 1, #list))) end
    -- one time in eight, whatever the rhythm of the user's numbers; replay.lua reads not past these bounds
    if (newest[user] - epoch) * 0.6180339887 % 1 < 0.125 or #list > 16 then
      call('ZREMRANGEBYRANK', key, '0', beyond)
      call('ZREMRANGEBYSCORE', key, '-inf', bottom)
    end
    if due or setback or earlier[user] <= tickseq then call('PEXPIRE', key, lifetime) end -- once a tick
  end
  for bucket, list in pairs(bybucket) do
    local key, base, fields = KEYS[tonumber(bucket)], bases[bucket], {}
    local renew = not base or setback or now - renewed[bucket] >= tick
    if renew then -- a tick is far below the minute that a bucket is kept beyond its time
      base = base or seq
      fields = { BASE, fmt('%d', base), RENEWED, fmt('%d', now) }
    end
    for _, i in ipairs(list) do
      if not known[i] then
        fields[#fields + 1] = ARGV[FIRST + 5 * (i - 1)]
        fields[#fields + 1] = fmt('%d', out[2 + 3 * i] - base)
      end
      if #fields >= CHUNK then call('HSET', key, unpack(fields)); fields = {} end
    end
    if #fields > 0 then call('HSET', key, unpack(fields)) end
    if renew then call('PEXPIRE', key, fmt('%d', dedupe + 60000)) end
  end

  -- 4. trims
  if due or math.floor(s / 64) > math.floor(seq / 64) then call('XTRIM', journal, 'MAXLEN', '~', ARGV[5]) end
  if due then
    if last > ticked and now - last >= tick then call('ZADD', times, fmt('%d', last), fmt('%d', seq)) end
    call('ZADD', times, fmt('%d', now), fmt('%d', s))
    local old, when = outdated(age)
    if old > 0 then
      call('XTRIM', journal, 'MINID', '~', fmt('%d', old + 1))
      call('ZREMRANGEBYSCORE', times, '-inf', '(' .. fmt('%d', when))
    end
    call('PEXPIRE', journal, fmt('%d', age + 2 * tick))
    call('PEXPIRE', times, fmt('%d', age + 2 * tick))
    -- UNLINK, before its time is up, frees a bucket beside the event loop; an expiry does not
    local left = call('PTTL', KEYS[7])
    if left >= 0 and left < 60000 then call('UNLINK', KEYS[7]) end
  end
  return out
end

local function part(list, from, n)
  local out = {}
  for i = 1, n do out[i] = list[from + i] end
  return out
end

local batches = tonumber(ARGV[1])
local answers, keys, args = {}, 0, 1 + 2 * batches
for b = 1, batches do
  local nkeys, nargs = tonumber(ARGV[2 * b]), tonumber(ARGV[2 * b + 1])
  local ok, got = pcall(commit, part(KEYS, keys, nkeys), part(ARGV, args, nargs))
  if not ok then
    got = type(got) == 'table' and got.err or tostring(got)
    if string.match(got, '^READONLY ') then return redis.error_reply(got) end -- all of them: clients then look for the master
  end
  answers[b], keys, args = got, keys + nkeys, args + nargs
end
return answers
