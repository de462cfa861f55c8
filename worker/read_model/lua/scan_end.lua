-- The last part of a scan script.
return answer_partitions(function(prefix, answer, index)
  if sessions and #sessions == 0 then return end
  start_budget()
  local place, sources = ARGV[8 + index], sources_of(prefix)
  if sessions and emit_small_sessions(prefix, sources, answer) then return end
  scan_partition(prefix, sources, place ~= '' and place, answer)
end)
