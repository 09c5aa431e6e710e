-- Reserves pieces, all or nothing, once per purchase id. KEYS: gate, purchases, users.
-- ARGV: purchase id, user, quantity, epoch of the gate that let it in.
local known = redis.call('HGET', KEYS[2], ARGV[1])
if known == 'fenced' then return {'fenced'} end
if known then return {'reserved'} end
local gate = redis.call('HMGET', KEYS[1], 'run_id', 'open', 'epoch', 'per_user', 'left')
if gate[1] ~= run_id() or gate[2] ~= '1' or gate[3] ~= ARGV[4] then return {'closed'} end
local quantity = tonumber(ARGV[3])
local before = redis.call('HGET', KEYS[3], ARGV[2])
if before then return {'limited', before} end
if quantity < 1 or quantity > tonumber(gate[4]) then return {'limited', ''} end
if quantity > tonumber(gate[5]) then return {'sold_out'} end
redis.call('HINCRBY', KEYS[1], 'left', -quantity)
redis.call('HINCRBY', KEYS[1], 'reserved', quantity)
redis.call('HSET', KEYS[2], ARGV[1], 'reserved|' .. ARGV[3] .. '|' .. ARGV[2])
redis.call('HSET', KEYS[3], ARGV[2], ARGV[1])
return {'reserved'}
