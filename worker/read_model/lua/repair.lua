-- The steps of a repair: 'begin' opens a new key generation that nobody reads, 'switch' makes it the live one, 'forget'
-- drops an unlinked one from those that are to be retired, which are remembered until then.
--
-- KEYS  1 watermark
-- ARGV  1 'begin', 'switch' or 'forget'  2 generation  3 epoch
--       4.. with switch: field, value pairs of the watermark to set; with forget: the key generation
-- Returns 'fenced', or {key generation that is built or live, key generations to retire...}.
local call = redis.call
if call('HGET', KEYS[1], 'epoch') ~= ARGV[3] then return 'fenced' end
local mark = call('HMGET', KEYS[1], 'keys', 'building', 'retired')
local answer = {}
local function retire(name)
  if name and name ~= '' then answer[#answer + 1] = name end
end
for name in string.gmatch(mark[3] or '', '%S+') do
  if not (ARGV[1] == 'forget' and name == ARGV[4]) then retire(name) end
end
local current = mark[1] or ''
if ARGV[1] == 'begin' then
  retire(mark[2])
  -- an epoch is never given twice, also where the watermark was lost and the keys it named were not
  current = ARGV[3]
  call('HSET', KEYS[1], 'generation', ARGV[2], 'state', 'repairing', 'building', current, 'seq', 0)
elseif ARGV[1] == 'switch' then
  if not mark[2] then return 'fenced' end
  retire(mark[1])
  current = mark[2]
  call('HSET', KEYS[1], 'keys', current, 'state', 'live', unpack(ARGV, 4))
  call('HDEL', KEYS[1], 'building')
end
call('HSET', KEYS[1], 'retired', table.concat(answer, ' '))
return { current, unpack(answer) }
