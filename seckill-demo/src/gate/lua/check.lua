-- The checkback's question: was this purchase reserved? If not, it never will be: its id is fenced in the same step.
-- KEYS: gate, purchases. ARGV: purchase id, epoch.
local known = redis.call('HGET', KEYS[2], ARGV[1])
if known and known ~= 'fenced' then return 'commit' end
-- A later gate stands: reserve refuses this epoch for ever, so there is nothing to fence.
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if not epoch or tonumber(epoch) <= tonumber(ARGV[2]) then redis.call('HSET', KEYS[2], ARGV[1], 'fenced') end
return 'rollback'
