-- The first part of every script that reads partitions; worker/read_model/lua_scripts.py concatenates the files.
--
-- KEYS  watermarks, all in one slot or on one server; on a single server followed by the key that names the live namespace
-- ARGV  the last two: units that the call may spend before it starts another partition; the namespace of the watermarks, or
--       empty to skip the check that it is live
-- Returns an empty list if another namespace is live. Otherwise one list for each watermark: the state, then the answer of the
-- partition. No answer follows a state other than 'live'. 'later': the partition was not read, and the caller must retry it.
local expected_namespace, max_spent = table.remove(ARGV), tonumber(table.remove(ARGV))
if expected_namespace ~= '' then
  local live = redis.call('HMGET', table.remove(KEYS), KEY_LIVE_NAMESPACE, 'namespace')
  if (live[1] or live[2]) ~= expected_namespace then return {} end
end

-- The cost of this call so far. One unit is one command, about a microsecond; an entry of a reply costs ENTRY_COST.
local spent, ENTRY_COST = 0, 0.5
local function charge(units) spent = spent + units end

local function call(...)
  local answer = redis.call(...)
  spent = spent + 1
  if type(answer) == 'table' then spent = spent + ENTRY_COST * #answer end
  return answer
end

-- Calls append_answer(key prefix, answer, index of the watermark) for every live partition; it appends to `answer`.
local function answer_partitions(append_answer)
  local answers = {}
  for index, key in ipairs(KEYS) do
    if index > 1 and spent >= max_spent then
      answers[index] = { 'later' }
    else
      local watermark = redis.call('HMGET', key, 'state', 'keys')
      local answer = { watermark[1] or '' }
      answers[index] = answer
      if watermark[1] == 'live' then append_answer(string.sub(key, 1, -#KEY_WATERMARK - 1) .. watermark[2] .. ':', answer, index) end
    end
  end
  return answers
end

