-- The bookings of a session in order: one group of states after the other; within a group by bookingId, as bytes.
--
-- KEYS  as in live.lua
-- ARGV  1 number of bookings wanted from a partition  2 the session  3 what the bookingIds begin with  4 the groups, JSON list
--       of lists of states  5.. of each partition the place to start after, JSON: null or [index of the group, member in hex]
-- Answers for each partition: its watermark (fields and values alternating, with the server's time in ms as the field `now`);
-- the place to continue after, as index, space and member (empty: there are no more); then indexes and members alternating.
local session, beginning, groups = ARGV[2], ARGV[3], cjson.decode(ARGV[4])
local STATES = 4
-- a range of so many members is read, and not searched further
local FEW = 16
limit = tonumber(ARGV[1])

-- Up to `count` members with ranks from `low` to before `high`, which are ordered by bytes: those after a member or, without one,
-- those that begin so. Not rank_after: bookingIds are not uniformly distributed, and the ranks are known.
local function read_state(source, low, high, after, count)
  local from, stop = after or beginning, high
  local is_reached = from == ''
  if is_reached then high = low end
  while high - low > FEW do
    local middle = floor((low + high) / 2)
    if less(call('ZRANGE', source, middle, middle)[1], from) then low = middle + 1 else high = middle end
  end
  local members = {}
  -- what is wanted begins at `high` or a little before it
  local rows = low < stop and call('ZRANGE', source, low, min(high + count, stop - 1)) or {}
  for _, member in ipairs(rows) do
    if #members == count then break end
    is_reached = is_reached or not less(member, from)
    if is_reached and member ~= after then
      if sub(member, 1, #beginning) ~= beginning then break end
      members[#members + 1] = member
    end
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
