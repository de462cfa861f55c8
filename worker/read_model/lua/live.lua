-- What the scripts that look at partitions begin with; `scripts.py` puts the files together.
--
-- KEYS  watermarks, all of one slot or of one server; on one server behind them the key that names the live namespace
-- ARGV  at the end: units that the call may spend before it begins with another partition; the namespace of the watermarks,
--       empty where its being live is not looked at
-- A script returns an empty list where another namespace is live, else for each watermark a list: state (where it is not
-- 'live' nothing follows; 'later': not looked at, ask again) and what it says of the partition.
local expected, most_spent = table.remove(ARGV), tonumber(table.remove(ARGV))
if expected ~= '' and redis.call('HGET', table.remove(KEYS), 'namespace') ~= expected then return {} end

-- What the call has cost the server so far, in units of one command, about a microsecond.
local spent, ENTRY = 0, 0.5
local function charge(units) spent = spent + units end

local function call(...)
  local answer = redis.call(...)
  spent = spent + 1
  if type(answer) == 'table' then spent = spent + ENTRY * #answer end
  return answer
end

-- `say` adds to the answer of a partition that serves, given what its keys begin with and its place among the watermarks.
local function of_partitions(say)
  local answers = {}
  for index, key in ipairs(KEYS) do
    if index > 1 and spent >= most_spent then
      answers[index] = { 'later' }
    else
      local mark = redis.call('HMGET', key, 'state', 'keys')
      local answer = { mark[1] or '' }
      answers[index] = answer
      if mark[1] == 'live' then say(string.sub(key, 1, -10) .. mark[2] .. ':', answer, index) end
    end
  end
  return answers
end

