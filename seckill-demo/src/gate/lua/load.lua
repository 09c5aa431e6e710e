-- Enters what the database has taken. KEYS: gate, purchases, users. ARGV: epoch, then id, state, quantity, user of each.
local build = redis.call('HMGET', KEYS[1], 'build_epoch', 'build_run_id')
if build[1] ~= ARGV[1] or build[2] ~= run_id() then return 'superseded' end
for at = 2, #ARGV, 4 do
  local id, state, quantity, user = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  redis.call('HSET', KEYS[2], id, state .. '|' .. quantity .. '|' .. user)
  redis.call('HSET', KEYS[3], user, id)
end
return 'done'
