-- Shared by all scripts: which Redis this is. A restarted or failed-over server has another run_id, and what it holds is
-- not trusted.
local function run_id()
  return string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
end
