-- The order of numberOfAttendees and id, for each status by itself.

-- From the sources, for each status. With many sessions: all matching entries if they are few, otherwise from the index of all
-- attendances, each matched by its document.
local function scan_partition(prefix, sources, place, answer)
  local starts, at = {}, 1
  while place and at <= #place do
    local score, id, behind = struct.unpack('>dBc0', place, at)
    starts[#starts + 1], at = { score, id }, behind
  end
  if #sources <= MANY_RUNS then
    local unordered = { '' }
    for _, source in ipairs(sources) do
      -- with several sources, most have few matching entries: one command reads them
      local rows = #sources > 1 and call('ZRANGEBYSCORE', source, merged_ranges[1][1],
        merged_ranges[#merged_ranges][2], 'WITHSCORES', 'LIMIT', '0', SHORT)
      if rows and #rows < 2 * SHORT then
        for at = 1, #rows, 2 do
          if matches(tonumber(rows[at + 1])) then
            unordered[#unordered + 1] = rows[at + 1]
            unordered[#unordered + 1] = rows[at]
          end
        end
      else
        for at, ranges in ipairs(ranges_by_status) do
          local segment = read_by_score(source, ranges, starts[at], limit)
          if #segment > 1 or segment[1] ~= '' then answer[#answer + 1] = segment end
        end
      end
    end
    if #unordered > 1 then answer[#answer + 1] = unordered end
    return
  end
  if count_of(sources, merged_ranges) <= budget then
    local unordered = { '' }
    for _, range in ipairs(merged_ranges) do
      local low, high = bounds(range)
      for _, source in ipairs(sources) do
        local rows = call('ZRANGEBYSCORE', source, low, high, 'WITHSCORES')
        for at = 1, #rows, 2 do
          unordered[#unordered + 1] = rows[at + 1]
          unordered[#unordered + 1] = rows[at]
        end
      end
    end
    answer[#answer + 1] = unordered
    return
  end
  for at, ranges in ipairs(ranges_by_status) do
    local segment, from = { '' }, starts[at]
    while true do
      local rows = read_by_score(by_status, ranges, from, max(limit, SHORT))
      for entry = 2, #rows, 2 do
        if document_matches(prefix, rows[entry + 1]) then
          segment[#segment + 1] = rows[entry]
          segment[#segment + 1] = rows[entry + 1]
        end
      end
      if rows[1] == '' then break end
      if #segment > 2 * limit or is_budget_spent() then
        segment[1] = rows[1]
        break
      end
      local score, id = string.match(rows[1], '^(%d+) (.*)$')
      from = { tonumber(score), id }
    end
    if #segment > 1 or segment[1] ~= '' then answer[#answer + 1] = segment end
  end
end

