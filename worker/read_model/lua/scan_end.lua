-- The last part of a scan script.
return answer_partitions(function(prefix, answer, index)
  if sessions and #sessions == 0 then return end
  start_budget()
  local place, sources = cjson.decode(ARGV[8 + index]), sources_of(prefix)
  if sessions and emit_small_sessions(prefix, sources, answer) then return end
  if place == cjson.null then place = nil end
  scan_partition(prefix, sources, place, answer)
end)
