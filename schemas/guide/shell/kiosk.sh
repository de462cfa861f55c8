#!/bin/sh
# kiosk.sh SPOOL_FOLDER: posts the scans of standard input to the API, also after hours without a network.
#
# A line is `bookingId sessionId [numberOfAttendees]`. Each scan is a finished event in the spool folder before it is reported
# as taken, and stays there, unchanged, until the API has answered 202. Needs curl 7.83, jq and GNU coreutils.
set -u
export LC_ALL=C

spool=$1
url=${KIOSK_URL:-http://localhost:8080}/v1/events
token=${KIOSK_TOKEN:-}
source=${KIOSK_SOURCE:-/gates/north/kiosk-1}
timeout=${KIOSK_TIMEOUT:-60}      # seconds that a request may take
max_pause=${KIOSK_MAX_PAUSE:-30}  # seconds between two attempts
line_end='
'
mkdir -p "$spool" || exit 1

# take BOOKING SESSION NUMBER: writes a scan to the spool as an event
take() {
  id=$(cat /proc/sys/kernel/random/uuid)
  time=$(date -u +%Y-%m-%dT%H:%M:%S.%6NZ)
  path=$spool/$(printf %s "$time" | tr -d ':Z-')-$id
  if { jq -nc --arg id "$id" --arg source "$source" --arg time "$time" --arg booking "$1" --arg session "$2" --arg number "$3" \
         '{specversion: "1.0", $id, $source, type: "attendance.check_in", $time,
           data: ({bookingId: $booking, sessionId: $session}
                  + if $number == "" then {} else {numberOfAttendees: ($number | tonumber)} end)}' > "$path.tmp" &&
       sync "$path.tmp" && mv "$path.tmp" "$path.json" && sync "$spool"; } 2> /dev/null
  then
    echo "taken $id"
  else
    echo "not taken: $spool cannot be written; is the disk full?" >&2
    rm -f "$path.tmp"
  fi
}

# send FILE: posts an event; if it fails, retry_after is how many seconds the API asks to wait, or empty
send() {
  retry_after=
  answer=$(printf 'Authorization: Bearer %s\n' "$token" |
    curl -sS --max-time "$timeout" -H @- -H 'content-type: application/cloudevents+json' --data-binary "@$1" \
      -w '\n%{http_code} %header{retry-after}' "$url")
  failed=$?
  status=${answer##*"$line_end"}
  case $failed:$status in
    0:202*) rm -f "$1" ;;
    0:400* | 0:413*) set_aside "$1" "${answer%"$line_end"*}" ;;
    26:*) [ ! -e "$1" ] || set_aside "$1" "cannot be read" ;;  # if it is gone, another process on this spool has sent it
    0:*)
      echo "not accepted: $answer" >&2
      case ${status#* } in *[!0-9]*) ;; *) retry_after=${status#* } ;; esac
      return 1 ;;
    *) return 1 ;;  # curl has said why
  esac
}

set_aside() {
  echo "moved aside: $1: $2" >&2
  mv "$1" "${1%.json}.bad"
}

# send_all: sends what is in the spool, oldest first, until it is empty
send_all() {
  while set -- "$spool"/*.json && [ "$1" != "$spool/*.json" ]; do
    for file; do
      pause=1
      while [ -e "$file" ] && ! send "$file"; do
        [ "$pause" -lt "$max_pause" ] || pause=$max_pause
        sleep "${retry_after:-$pause}"
        pause=$((pause * 2))
        kill -0 $$ 2> /dev/null || exit 1  # the kiosk was killed
      done
    done
  done
}

trap 'kill "$sender"; exit 143' TERM INT
while kill -0 $$ 2> /dev/null; do send_all; sleep 0.2; done &
sender=$!
while read -r booking session number rest || [ -n "$booking" ]; do
  case $session:$number:$rest in
    :* | *:*[!0-9]*:* | *:???????*:* | *:*:?*) echo "not a scan: $booking $session $number $rest" >&2 ;;
    *) take "$booking" "$session" "$number" ;;
  esac
done
kill "$sender"
send_all &
sender=$!
wait "$sender"
