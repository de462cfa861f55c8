-- The bookings of a session in order: one group of states after the other; within a group by bookingId, as bytes.
--
-- KEYS  as in live.lua
-- ARGV  1 number of bookings wanted from a partition  2 the session  3 what the bookingIds begin with  4 the groups, JSON list
--       of lists of states  5.. of each partition the place to start after, JSON: null or [index of the group, member in hex]
-- Answers for each partition: its watermark (fields and values alternating, with the server's time in ms as the field `now`);
-- the place to continue after, as index, space and member (empty: there are no more); then indexes and members alternating.
local session, beginning, groups = ARGV[2], ARGV[3], cjson.decode(ARGV[4])
local STATES = 4
limit = tonumber(ARGV[1])

-- Up to `count` members with ranks from `low` to before `high`: those after a member or, without one, those that begin so.
local function read_state(roster, low, high, after, count)
  local from, members = after or beginning, {}
  if from ~= '' then low = rank_of_name(roster, low, high, from) end
  for _, member in ipairs(low < high and call('ZRANGE', roster, low, min(low + count, high - 1)) or {}) do
    if #members == count or sub(member, 1, #beginning) ~= beginning then break end
    if member ~= after then members[#members + 1] = member end
  end
  return members
end

return answer_partitions(function(prefix, answer, index)
  answer[2] = watermark_of(KEYS[index])
  answer[3] = ''
  local source, place = prefix .. KEY_ROSTER .. session, cjson.decode(ARGV[4 + index])
  local first, after, count = 0, nil, limit
  -- the rank of the first member of each state
  local ranks = { [0] = 0, [STATES] = call('ZCARD', source) }
  if ranks[STATES] == 0 then return end
  for state = 1, STATES - 1 do ranks[state] = call('ZCOUNT', source, '-inf', '(' .. state) end
  if place ~= cjson.null then first, after = tonumber(place[1]), unhex(place[2]) end
  for group = first, #groups - 1 do
    local lists, heads = {}, {}
    for at, state in ipairs(groups[group + 1]) do
      lists[at] = read_state(source, ranks[state], ranks[state + 1], after, count)
      heads[at] = 1
    end
    after = nil
    while count > 0 do
      local smallest
      for at, list in ipairs(lists) do
        local member = list[heads[at]]
        if member and (not smallest or less(member, lists[smallest][heads[smallest]])) then smallest = at end
      end
      if not smallest then break end
      local member = lists[smallest][heads[smallest]]
      heads[smallest] = heads[smallest] + 1
      answer[#answer + 1] = tostring(group)
      answer[#answer + 1] = member
      count = count - 1
      if count == 0 then answer[3] = group .. ' ' .. member end
    end
    if count == 0 then return end
  end
end)
