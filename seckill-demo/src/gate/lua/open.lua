-- Opens the gate that was built. KEYS: gate. ARGV: epoch, per_user, initial, left, reserved, sold.
local build = redis.call('HMGET', KEYS[1], 'build_epoch', 'build_run_id')
if build[1] ~= ARGV[1] or build[2] ~= run_id() then return 'superseded' end
redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'per_user', ARGV[2], 'initial', ARGV[3], 'left', ARGV[4],
  'reserved', ARGV[5], 'sold', ARGV[6], 'run_id', build[2], 'open', '1')
return 'done'
