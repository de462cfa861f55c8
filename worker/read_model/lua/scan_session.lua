-- The order of sessionId and id; uses by_id of scan_id.lua.

-- Calls visit(name) for session names in order, from `from` on (after it if `is_exclusive`), until it returns true.
local function visit_sessions(prefix, from, is_exclusive, visit)
  if sessions then
    local first, last, step = 1, #sessions, 1
    if not ascending then first, last, step = last, first, -1 end
    for index = first, last, step do
      local name = sessions[index]
      local is_before = from and ((name == from and is_exclusive) or (name ~= from and less(name, from) == ascending))
      if not is_before and visit(name) then return end
    end
    return
  end
  local start, take = from and ((is_exclusive and '(' or '[') .. from), FIRST_TAKE
  while true do
    local names
    if ascending then names = call('ZRANGEBYLEX', prefix .. KEY_SESSIONS, start or '-', '+', 'LIMIT', 0, take)
    else names = call('ZREVRANGEBYLEX', prefix .. KEY_SESSIONS, start or '+', '-', 'LIMIT', 0, take) end
    for _, name in ipairs(names) do
      if not denied[name] and visit(name) then return end
    end
    if #names < take then return end
    start, take = '(' .. names[#names], min(CHUNK, take * 2)
  end
end

-- From the documents of all matching ids, if that is cheapest. Otherwise from the index of each session in turn.
local function by_session(prefix, sources, total, place, answer)
  local from, id, is_exclusive
  if place then
    from, id = string.match(place, '^(%Z*)%z(.*)$')
    is_exclusive = id == (ascending and AFTER_ALL or BEFORE_ALL)
  end
  local target = limit
  if not sessions then
    local scanned = limit * call('ZCARD', prefix .. KEY_SESSIONS) / total
    if scanned * SESSION_COST > FAR_KEYS then target = math.ceil(limit / 2) end
    local ids = DOCUMENT_COST * total < min(MAX_TRIAL, SESSION_COST * scanned)
      and all_ids(sources, merged_ranges, floor(MAX_TRIAL / DOCUMENT_COST))
    if ids then return emit_by_document(prefix, ids, false, answer) end
  end
  local segment, count = { '' }, 0
  answer[#answer + 1] = segment
  local ranges, max_ids = merged_ranges, tostring(budget + 1)
  visit_sessions(prefix, from, is_exclusive, function(name)
    local source, key_prefix, size = prefix .. KEY_IDS .. name, name .. '\0', 0
    local rows = #ranges > MANY_RANGES and call('ZRANGEBYSCORE', source, merged_ranges[1][1],
      merged_ranges[#merged_ranges][2], 'WITHSCORES', 'LIMIT', '0', SHORT)
    local is_short = rows and #rows < 2 * SHORT
    for at = 1, is_short and #rows or 0, 2 do
      if matches(tonumber(rows[at + 1])) then
        segment[#segment + 1] = key_prefix .. rows[at]
        size = size + 1
      end
    end
    for index = 1, is_short and 0 or #ranges do
      local low, high = bounds(ranges[index])
      local ids = call('ZRANGEBYSCORE', source, low, high, 'LIMIT', '0', max_ids)
      for at = 1, #ids do segment[#segment + 1] = key_prefix .. ids[at] end
      size = size + #ids
      if size > budget then
        -- too many to return all of them: remove them and scan this session by id
        for _ = 1, size do segment[#segment] = nil end
        local parts = {}
        by_id(prefix, { source }, count_of({ source }, merged_ranges), name == from and #id == 16 and id or nil, parts)
        for _, part in ipairs(parts) do
          for at = 1, #part do
            if at > 1 or part[1] ~= '' then part[at] = key_prefix .. part[at] end
          end
          answer[#answer + 1] = part
        end
        break
      end
    end
    count = count + size
    if count >= target or size > budget or is_budget_spent() then
      segment[1] = key_prefix .. (ascending and AFTER_ALL or BEFORE_ALL)
      return true
    end
  end)
end

local function scan_partition(prefix, sources, place, answer)
  local total = total_of(sources)
  if total > 0 then by_session(prefix, sources, total, place, answer) end
end

