-- What the scripts that look at partitions begin with; `scripts.py` puts the two together.
--
-- KEYS  watermarks, all of one slot or of one server; on one server behind them the key that names the live namespace
-- ARGV  at the end the namespace of the watermarks, empty where its being live is not looked at
-- A script returns an empty list where another namespace is live, else for each watermark a list: state (where it is not
-- 'live' nothing follows) and what it says of the partition.
local expected = table.remove(ARGV)
if expected ~= '' and redis.call('HGET', table.remove(KEYS), 'namespace') ~= expected then return {} end

-- `say` adds to the answer of a partition that serves, given what its keys begin with and its place among the watermarks.
local function of_partitions(say)
  local answers = {}
  for index, key in ipairs(KEYS) do
    local mark = redis.call('HMGET', key, 'state', 'keys')
    local answer = { mark[1] or '' }
    answers[index] = answer
    if mark[1] == 'live' then say(string.sub(key, 1, -10) .. mark[2] .. ':', answer, index) end
  end
  return answers
end

