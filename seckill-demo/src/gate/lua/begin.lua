-- Clears the place for the gate of a new epoch. KEYS: gate, purchases, users. ARGV: epoch.
local policy = string.match(redis.call('INFO', 'memory'), 'maxmemory_policy:([%w-]+)')
if policy ~= 'noeviction' then return 'evicts' end
local latest = redis.call('HGET', KEYS[1], 'build_epoch')
if latest and tonumber(latest) >= tonumber(ARGV[1]) then return 'superseded' end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
redis.call('HSET', KEYS[1], 'build_epoch', ARGV[1], 'build_run_id', run_id())
return 'done'
