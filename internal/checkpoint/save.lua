-- Moves positions forward. ARGV: partition, seq, epoch of each.
for i = 1, #ARGV, 3 do
	local old = redis.call('HGET', KEYS[1], ARGV[i])
	local seq = old and tonumber(string.match(old, '^(%d+)/'))
	if not seq or seq < tonumber(ARGV[i + 1]) then
		redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1] .. '/' .. ARGV[i + 2])
	end
end
return redis.status_reply('OK')
