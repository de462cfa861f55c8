-- Appends to the partition's stream of changes, which live readers wait for; the first part of apply.lua and repair.lua.
--
-- KEYS  1 watermark
-- An entry names the sessions whose tally changed, joined by newlines, which no id holds, and whether alerts changed. The stream
-- is short: readers that missed an entry load everything again. They find that out by the field `changes` of the watermark.
local MAX_NAMES, MAX_BYTES, ANY_SESSION, MAX_ENTRIES = 100, 4096, '\n', KEY_MAX_CHANGES

local function announce(sessions, has_alerts)
  local stream = string.sub(KEYS[1], 1, -#KEY_WATERMARK - 1) .. KEY_CHANGES
  local id = redis.call('XADD', stream, 'MAXLEN', '~', MAX_ENTRIES, '*', 'sessions', sessions, 'alerts', has_alerts and '1' or '0')
  redis.call('HSET', KEYS[1], 'changes', id)
end

