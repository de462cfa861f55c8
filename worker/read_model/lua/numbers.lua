-- The next distinct numbers of attendees among the matching attendances, with how many attendances have each.
--
-- KEYS  as in live.lua
-- ARGV  1 1 or -1 (descending)  2 number of attendances wanted: the script stops once the counts add up to it
--       3 units that a partition may spend; it reads at least one number  4 number to start from, JSON: null or a number
--       5 whether to include that number: 1 or 0  6 score ranges and 7 sessions: as in scan.lua
-- Answers for each partition: the last number that was read (empty: there are no more), then numbers and counts alternating.
set_query(ARGV[1] == '1', tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[6], ARGV[7], 0)
local from, inclusive = cjson.decode(ARGV[4]), ARGV[5] == '1'
if from == cjson.null then from = nil end
if from and not inclusive then from = ascending and from + 1 or from - 1 end

-- The nearest number, at or after `number` in the order, that a source has within the ranges of a status; nil if none. Every
-- command finds it or skips ranges.
local function nearest(source, ranges, number)
  local base = floor(ranges[1][1] / NUMBERS) * NUMBERS
  local index, step, last_score = 1, 1, ranges[#ranges][2]
  if not ascending then index, step, last_score = #ranges, -1, ranges[1][1] end
  local score = number and base + number
  while true do
    local range = ranges[index]
    while range and score and ((ascending and range[2] < score) or (not ascending and range[1] > score)) do
      index = index + step
      range = ranges[index]
    end
    if not range then return end
    local start = ascending and range[1] or range[2]
    if score then start = ascending and max(start, score) or min(start, score) end
    local rows
    if ascending then rows = call('ZRANGEBYSCORE', source, start, last_score, 'WITHSCORES', 'LIMIT', 0, 1)
    else rows = call('ZREVRANGEBYSCORE', source, start, last_score, 'WITHSCORES', 'LIMIT', 0, 1) end
    score = tonumber(rows[2])
    if not score then return end
    if score >= range[1] and score <= range[2] then return score - base end
  end
end

-- Merges the numbers of all sources and statuses: calls visit(number, count) in order until it returns true.
local function visit_numbers(sources, visit)
  -- the next number of each source and status
  local heads = {}
  local function advance(head, number)
    head.number = nearest(head.source, head.ranges, number)
    return head.number
  end
  for _, ranges in ipairs(ranges_by_status) do
    for _, source in ipairs(sources) do
      local head = { source = source, ranges = ranges }
      if advance(head, from) then heads[#heads + 1] = head end
    end
  end
  if is_partial(sources[1]) and (not from or from == 1 or (from < 1) == ascending) then
    heads[#heads + 1] = { number = 1, is_common = true }
  end
  start_budget()
  while #heads > 0 do
    local next_number = heads[1].number
    for _, head in ipairs(heads) do
      next_number = ascending and min(next_number, head.number) or max(next_number, head.number)
    end
    local count, remaining = 0, {}
    for _, head in ipairs(heads) do
      local has_more = true
      if head.is_common and head.number == next_number then
        count, has_more = count + count_unlisted(), false
      elseif head.number == next_number then
        local score = floor(head.ranges[1][1] / NUMBERS) * NUMBERS + next_number
        count = count + call('ZCOUNT', head.source, score, score)
        has_more = (ascending or next_number > 0) and advance(head, ascending and next_number + 1 or next_number - 1)
      end
      if has_more then remaining[#remaining + 1] = head end
    end
    if visit(next_number, count) then return end
    heads = remaining
  end
end

return answer_partitions(function(prefix, answer)
  local total = 0
  answer[2] = ''
  visit_numbers(sources_of(prefix), function(number, count)
    answer[#answer + 1] = number
    answer[#answer + 1] = count
    total = total + count
    if total >= limit or is_budget_spent() then
      answer[2] = number
      return true
    end
  end)
end)
