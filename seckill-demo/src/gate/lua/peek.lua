-- May this user try? Changes nothing. KEYS: gate, users. ARGV: user, quantity.
local gate = redis.call('HMGET', KEYS[1], 'run_id', 'open', 'epoch', 'per_user', 'left')
if gate[1] ~= run_id() or gate[2] ~= '1' then return {'closed'} end
local before = redis.call('HGET', KEYS[2], ARGV[1])
if before then return {'limited', before} end
if tonumber(ARGV[2]) < 1 or tonumber(ARGV[2]) > tonumber(gate[4]) then return {'limited', ''} end
if tonumber(ARGV[2]) > tonumber(gate[5]) then return {'sold_out'} end
return {'open', gate[3]}
