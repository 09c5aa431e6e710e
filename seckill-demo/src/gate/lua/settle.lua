-- Ends a reservation, once: its pieces become sold or free. KEYS: gate, purchases. ARGV: purchase id, 'sold' | 'released'.
if redis.call('HGET', KEYS[1], 'run_id') ~= run_id() then return 'no_gate' end
local state, quantity, user = string.match(redis.call('HGET', KEYS[2], ARGV[1]) or '', '^(%l+)|(%d+)|(.*)$')
if not state then return 'unknown' end
if state ~= 'reserved' then return 'before' end
redis.call('HINCRBY', KEYS[1], 'reserved', -tonumber(quantity))
redis.call('HINCRBY', KEYS[1], ARGV[2] == 'sold' and 'sold' or 'left', quantity)
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2] .. '|' .. quantity .. '|' .. user)
return 'done'
