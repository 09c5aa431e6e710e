-- Nobody gets in and nothing is settled until the gate is built again. KEYS: gate.
redis.call('HSET', KEYS[1], 'open', '0', 'run_id', '')
return 'done'
