-- The order of bookingId and id. A member of the index by booking of a status is an attendance of this status; or, of ATTENDED, it
-- stands for all that the record of its booking has of it.

-- Estimated number of attendances of a status, as `estimate`.
local whole_sizes = {}
local function whole_size(prefix, code)
  if not whole_sizes[code] then
    local low = code * NUMBERS
    local size = call('ZCOUNT', by_status, string.format('%.0f', low), string.format('%.0f', low + NUMBERS - 1))
    if code == 0 then size = size + tonumber(call('HGET', prefix .. KEY_UNLISTED, 'attendances') or 0) end
    whole_sizes[code] = size
  end
  return whole_sizes[code]
end

local statuses
-- The statuses of the query with the number of members in their index by booking (`size`) and of matching attendances (at least, if
-- every one of the status matches), the one with most of these first; both as `estimate`.
local function statuses_by_size(prefix, sources)
  if statuses then return statuses end
  statuses = {}
  for at, ranges in ipairs(ranges_by_status) do
    local code = floor(ranges[1][1] / NUMBERS)
    local status = { code = code, ranges = ranges, size = max(FEWEST_MATCHES, call('ZCARD', prefix .. KEY_BY_BOOKING .. code)) }
    -- the query has no condition other than the status, and perhaps sessions
    status.is_whole = ranges[1][1] % NUMBERS == 0 and ranges[1][2] % NUMBERS == NUMBERS - 1
    if status.is_whole and not sessions then status.matching = status.size
    else status.matching = estimate(sources, ranges) end
    statuses[at] = status
  end
  table.sort(statuses, function(one, other) return one.matching > other.matching end)
  return statuses
end

-- What the mark of an attendance in a record says of it: it is ATTENDED and matches, or not, or its index says whether it matches.
local MATCHES, DIFFERS, LOOK_UP = 1, 2, 3
local MOST_MARKED = 63 -- of a mark: this number or more
local FEWEST_MEMBERS = 2 -- that one command reads of an index by booking; most have several attendances

local function judge_mark(attended, mark)
  local code, number = mark % 4, floor(mark / 4)
  if code ~= 0 then return DIFFERS end
  if attended.is_whole and not sessions then return MATCHES end
  if number == MOST_MARKED then return LOOK_UP end
  if not matches(number) then return DIFFERS end
  return sessions and LOOK_UP or MATCHES
end

-- Returns expand(status, member, segment, ids, beginnings). It adds the keys of a member of the index of a status: its own, or those
-- of the record for which it stands. Keys that match go to the segment; ids to look up go to `ids`, and the bookingId and NUL before
-- each to `beginnings`. It returns the place behind all of these keys, and whether they are all of the status and booking.
local function expander(prefix)
  local buckets, after_all = prefix .. KEY_BOOKING, ascending and AFTER_ALL or BEFORE_ALL
  local verdicts = {}
  return function(status, member, segment, ids, beginnings)
    -- a bookingId has no NUL: one so far from the end is that before an id
    if byte(member, -17) == 0 then
      if status.is_whole and not sessions then segment[#segment + 1] = member
      else
        ids[#ids + 1] = sub(member, -16)
        beginnings[#ids] = sub(member, 1, -17)
      end
      return member, false
    end
    local beginning = sub(member, 1, -3)
    local record = call('HGET', buckets .. byte(member, -2) * 256 + byte(member, -1), sub(member, 1, -4))
    local first = record and first_attendance(record)
    if first then
      charge(MARK_COST * (#record - first) / 17)
      for at = first, #record, 17 do
        local mark = byte(record, at)
        local verdict = verdicts[mark]
        if not verdict then
          verdict = judge_mark(status, mark)
          verdicts[mark] = verdict
        end
        if verdict == MATCHES then
          segment[#segment + 1] = beginning .. sub(record, at + 1, at + 16)
        elseif verdict == LOOK_UP then
          ids[#ids + 1] = sub(record, at + 1, at + 16)
          beginnings[#ids] = beginning
        end
      end
    end
    return beginning .. after_all, true
  end
end

-- The cheapest of: the documents of all matching ids; the rosters of the sessions; the booking index of each status, where the ids
-- that its records do not decide are matched one by one, or looked up in a table of all matching ids.
local function by_booking(prefix, sources, place, place_member, answer)
  local statuses, id_set = statuses_by_size(prefix, sources), nil
  if sessions or not statuses[1].is_whole then
    local total = estimate(sources, merged_ranges)
    if total == 0 then return end
    local scanned, by_match = 0, 0
    for _, status in ipairs(statuses) do
      local size = status.matching > 0 and limit * whole_size(prefix, status.code) / total or 0
      local is_marked = status.code == 0 and not sessions
      scanned = scanned + size
      by_match = by_match + size * (is_marked and MARK_COST or #sources > FEW_SESSIONS and DOCUMENT_COST or #sources)
    end
    local by_lookup = sessions and total <= MAX_TRIAL and ID_COST * total + LOOKUP_COST * scanned or math.huge
    local by_document = total <= MAX_TRIAL / DOCUMENT_COST and DOCUMENT_COST * total or math.huge
    local by_index = min(by_match, by_lookup)
    if sessions and cost_by_roster(prefix, statuses, total) < min(by_index, by_document) then
      start_budget()
      return by_roster(prefix, statuses, place, answer)
    end
    local is_by_document = by_document < by_index
    local ids = (is_by_document or by_lookup < by_match)
      and all_ids(sources, merged_ranges, floor(is_by_document and MAX_TRIAL / DOCUMENT_COST or MAX_TRIAL))
    if ids and is_by_document then return emit_by_document(prefix, ids, true, answer) end
    if ids then
      id_set = {}
      for at = 1, #ids do id_set[ids[at]] = true end
    end
  end
  start_budget()
  local expand = expander(prefix)
  -- where the previous status, which has more keys, stopped: the others need not be read further
  local edge
  for _, status in ipairs(statuses) do
    -- members that have as many matching attendances as are wanted
    local key, from, take = prefix .. KEY_BY_BOOKING .. status.code, place and '(' .. place, limit * status.size / max(1, status.matching)
    local is_far, spare = take > FAR_KEYS and status.matching < status.size, status.matching < status.size and 1.25 or 1
    local target = is_far and math.ceil(limit / 2) or limit
    take = max(FEWEST_MEMBERS, min(CHUNK, math.ceil(take * spare * target / limit)))
    local segment, ids, beginnings = { '' }, {}, {}
    local function look_up()
      if #ids == 0 then return end
      for _, at in ipairs(places_of_matching(prefix, sources, ids, id_set)) do
        segment[#segment + 1] = beginnings[at] .. ids[at]
      end
      ids, beginnings = {}, {}
    end
    -- the booking of the place may have attendances behind it, wherever its member stands
    if place_member and status.code == 0 then expand(status, place_member, segment, ids, beginnings) end
    -- some of these keys may precede the place
    local target_size = #segment + target
    -- the member that stands for a record has its place among its booking's
    local last = edge and '[' .. (status.code > 0 and edge or string.match(edge, '^%Z*%z') .. (ascending and AFTER_ALL or BEFORE_ALL))
    while status.matching > 0 do
      local members, behind, is_whole
      if ascending then members = call('ZRANGEBYLEX', key, from or '-', last or '+', 'LIMIT', 0, take)
      else members = call('ZREVRANGEBYLEX', key, from or '+', last or '-', 'LIMIT', 0, take) end
      local read = 0
      -- not behind a single attendance of a large booking: while it becomes large, its record may hold attendances before that
      while read < #members and not (is_whole and #segment >= target_size) do
        read = read + 1
        local member = members[read]
        if member ~= place_member then behind, is_whole = expand(status, member, segment, ids, beginnings) end
        if #ids >= CHUNK then look_up() end
      end
      look_up()
      if read == #members and read < take then
        segment[1] = edge or ''
        break
      end
      from = '(' .. members[read]
      if behind and (#segment >= target_size or is_budget_spent()) then
        segment[1], edge = behind, behind
        break
      end
    end
    if #segment > 1 or segment[1] ~= '' then answer[#answer + 1] = segment end
  end
end

local function scan_partition(prefix, sources, place, answer)
  local nul = place and string.find(place, '\0', 1, true)
  if nul and #place == nul + 18 then by_booking(prefix, sources, sub(place, 1, -3), sub(place, 1, nul) .. sub(place, -2), answer)
  else by_booking(prefix, sources, place, nil, answer) end
end
