-- The next numbers of attendees that attendances in question have, and how many have each.
--
-- KEYS  as for live.lua
-- ARGV  1 1 or -1 (descending)  2 how many attendances they should come to  3 units that a partition may spend; one number is
--       looked at in any case  4 where to begin: JSON null or a number  5 whether that number itself is wanted: 1 or 0
--       6 windows and 7 sessions: as for scan.lua
-- Says of each partition the last number that was looked at (empty: there is no more), then numbers and counts in turn.
ask_about(ARGV[1] == '1', tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[6], ARGV[7], 0)
local from, inclusive = cjson.decode(ARGV[4]), ARGV[5] == '1'
if from == cjson.null then from = nil end
if from and not inclusive then from = up and from + 1 or from - 1 end

-- The nearest number that a source has in the ranges of a status, at or beyond a number. Each look finds it, or passes ranges.
local function nearest(source, of_status, number)
  local base = floor(of_status[1][1] / NUMBERS) * NUMBERS
  local index, step, limit = 1, 1, of_status[#of_status][2]
  if not up then index, step, limit = #of_status, -1, of_status[1][1] end
  local at = number and base + number
  while true do
    local range = of_status[index]
    while range and at and ((up and range[2] < at) or (not up and range[1] > at)) do
      index = index + step
      range = of_status[index]
    end
    if not range then return end
    local start = up and range[1] or range[2]
    if at then start = up and max(start, at) or min(start, at) end
    local found
    if up then found = call('ZRANGEBYSCORE', source, start, limit, 'WITHSCORES', 'LIMIT', 0, 1)
    else found = call('ZREVRANGEBYSCORE', source, start, limit, 'WITHSCORES', 'LIMIT', 0, 1) end
    at = tonumber(found[2])
    if not at then return end
    if at >= range[1] and at <= range[2] then return at - base end
  end
end

-- Each source and status with the nearest number it has; `add` says of a number's count whether that is enough.
local function numbers(sources, add)
  local heads = {}
  local function look(head, number)
    head.number = nearest(head.source, head.of_status, number)
    return head.number
  end
  for _, of_status in ipairs(windows) do
    for _, source in ipairs(sources) do
      local head = { source = source, of_status = of_status }
      if look(head, from) then heads[#heads + 1] = head end
    end
  end
  begin()
  while #heads > 0 do
    local best = heads[1].number
    for _, head in ipairs(heads) do best = up and min(best, head.number) or max(best, head.number) end
    local count, left = 0, {}
    for _, head in ipairs(heads) do
      local is_left = true
      if head.number == best then
        local score = floor(head.of_status[1][1] / NUMBERS) * NUMBERS + best
        count = count + call('ZCOUNT', head.source, score, score)
        is_left = (up or best > 0) and look(head, up and best + 1 or best - 1)
      end
      if is_left then left[#left + 1] = head end
    end
    if add(best, count) then return end
    heads = left
  end
end

return of_partitions(function(prefix, answer)
  local sum = 0
  answer[2] = ''
  numbers(sources_of(prefix), function(value, count)
    answer[#answer + 1] = value
    answer[#answer + 1] = count
    sum = sum + count
    if sum >= many or is_over() then
      answer[2] = value
      return true
    end
  end)
end)
