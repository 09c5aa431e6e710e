-- What the gate counts. KEYS: gate. Returns open, epoch, initial, left, reserved, sold; nothing where no gate stands.
local gate = redis.call('HMGET', KEYS[1], 'open', 'epoch', 'initial', 'left', 'reserved', 'sold', 'run_id')
if not gate[2] then return {} end
local open = (gate[1] == '1' and gate[7] == run_id()) and 1 or 0
return {open, tonumber(gate[2]), tonumber(gate[3]), tonumber(gate[4]), tonumber(gate[5]), tonumber(gate[6])}
