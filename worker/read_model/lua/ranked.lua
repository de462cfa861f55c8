-- Members of sorted sets by score and bytes, that are in all of some sets in which they have the same score.
--
-- KEYS  as for live.lua
-- ARGV  1 1 or -1 (descending)  2 how many  3 units that a partition may spend; it goes on at least by one step
--       4 the sets, JSON list  5 where to begin behind, JSON: null or [score as text, hex of member]
-- Says of each partition its watermark (fields and values in turn, then `now`: the server's time, ms), where to go on behind (as its last member; empty: there is
-- no more), then scores and members in turn.
up, many, budget = ARGV[1] == '1', tonumber(ARGV[2]), tonumber(ARGV[3])
local names, place = cjson.decode(ARGV[4]), cjson.decode(ARGV[5])
if place == cjson.null then place = nil end

return of_partitions(function(prefix, answer, index)
  begin()
  local mark, time = call('HGETALL', KEYS[index]), redis.call('TIME')
  mark[#mark + 1] = 'now'
  mark[#mark + 1] = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
  answer[2] = mark
  answer[3] = ''
  local sources, size, first = {}, nil, 1
  for at, name in ipairs(names) do
    sources[at] = prefix .. name
    local members = call('ZCARD', sources[at])
    if not size or members < size then size, first = members, at end
  end
  if size == 0 then return end
  local source = table.remove(sources, first)
  local take = #sources == 0 and many or max(many, CHUNK)
  local start = 0
  if place then
    local member = unhex(place[2])
    start = up and behind(source, place[1], member) or size - behind(source, place[1], member, true)
  end
  while true do
    local rows = call(up and 'ZRANGE' or 'ZREVRANGE', source, start, start + take - 1, 'WITHSCORES')
    if #rows == 0 then return end
    local members, is_in = {}, {}
    for at = 2, #rows + 1, 2 do members[at / 2] = rows[at - 1] end
    for _, other in ipairs(sources) do
      local scores = call('ZMSCORE', other, unpack(members))
      for at = 1, #members do is_in[at] = is_in[at] ~= false and scores[at] end
    end
    for at = 1, #members do
      if #sources == 0 or is_in[at] then
        answer[#answer + 1] = rows[2 * at]
        answer[#answer + 1] = members[at]
      end
    end
    if #members < take then return end
    start = start + take
    if #answer >= 3 + 2 * many or is_over() then
      answer[3] = rows[#rows] .. ' ' .. members[#members]
      return
    end
  end
end)
