-- Members of sorted sets in order of score and bytes: those that are in all of the sets. A member has the same score in each.
--
-- KEYS  as in live.lua
-- ARGV  1 1 or -1 (descending)  2 number of members wanted from a partition  3 units that a partition may spend; every answer
--       advances by a step or more  4 the sets, JSON list  5.. of each partition the place to start after, JSON: null or [score as
--       text, member in hex]
-- Answers for each partition: its watermark (fields and values alternating, with the server's time in ms as the field `now`);
-- the place to continue after, as score, space and member (empty: there are no more); then scores and members alternating.
ascending, limit, budget = ARGV[1] == '1', tonumber(ARGV[2]), tonumber(ARGV[3])
local names = cjson.decode(ARGV[4])

return answer_partitions(function(prefix, answer, index)
  start_budget()
  answer[2] = watermark_of(KEYS[index])
  answer[3] = ''
  -- walks the smallest set and looks its members up in the others
  local sources, size, smallest = {}, nil, 1
  for at, name in ipairs(names) do
    sources[at] = prefix .. name
    local members = call('ZCARD', sources[at])
    if not size or members < size then size, smallest = members, at end
  end
  if size == 0 then return end
  local source = table.remove(sources, smallest)
  local take = #sources == 0 and limit or max(limit, CHUNK)
  local start = 0
  local place = cjson.decode(ARGV[4 + index])
  if place ~= cjson.null then
    local member = unhex(place[2])
    start = ascending and rank_after(source, place[1], member) or size - rank_after(source, place[1], member, true)
  end
  while true do
    local rows = call(ascending and 'ZRANGE' or 'ZREVRANGE', source, start, start + take - 1, 'WITHSCORES')
    if #rows == 0 then return end
    local members, is_in_all = {}, {}
    for at = 2, #rows + 1, 2 do members[at / 2] = rows[at - 1] end
    for _, other in ipairs(sources) do
      local scores = call('ZMSCORE', other, unpack(members))
      for at = 1, #members do is_in_all[at] = is_in_all[at] ~= false and scores[at] end
    end
    for at = 1, #members do
      if #sources == 0 or is_in_all[at] then
        answer[#answer + 1] = rows[2 * at]
        answer[#answer + 1] = members[at]
      end
    end
    if #members < take then return end
    start = start + take
    if #answer >= 3 + 2 * limit or is_budget_spent() then
      answer[3] = rows[#rows] .. ' ' .. members[#members]
      return
    end
  end
end)
