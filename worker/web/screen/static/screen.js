// What the pages need beyond htmx: times in the viewer's zone and locale, and whether the stream is alive.
(() => {
  "use strict";

  const formats = {
    clock: {hour: "2-digit", minute: "2-digit"},
    seconds: {hour: "2-digit", minute: "2-digit", second: "2-digit"},
    day: {weekday: "short", day: "numeric", month: "short", hour: "2-digit", minute: "2-digit"},
    moment: {year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit"},
  };
  const locales = navigator.languages?.length ? navigator.languages : undefined;
  const formatters = Object.fromEntries(
    Object.entries(formats).map(([name, options]) => [name, new Intl.DateTimeFormat(locales, options)]));
  const ages = new Intl.RelativeTimeFormat("en", {numeric: "always"});

  function age(when) {
    const seconds = (when - Date.now()) / 1000;
    for (const [unit, size] of [["day", 86400], ["hour", 3600], ["minute", 60]]) {
      if (Math.abs(seconds) >= size) return ages.format(Math.trunc(seconds / size), unit);
    }
    return "just now";
  }

  // today a clock time is enough; otherwise the day belongs to it
  function text(when, as) {
    if (as === "age") return age(when);
    const isToday = when.toDateString() === new Date().toDateString();
    return formatters[as === "clock" && !isToday ? "day" : as].format(when);
  }

  function showTimes(root) {
    for (const element of root.querySelectorAll("time[data-as]")) {
      const when = new Date(element.dateTime);
      if (isNaN(when)) continue;
      const shown = text(when, element.dataset.as);
      if (element.textContent !== shown) element.textContent = shown;
      const full = formatters.moment.format(when);
      if (element.title !== full) element.title = full;
    }
  }

  // The server's text has the time each few seconds: silence for longer is a lost connection, also where nothing closed it.
  // While Redis is away there is nothing to send, and the page says so already.
  const SILENT_MS = 15000, GRACE_MS = 2000;
  const stream = document.getElementById("live");
  const words = document.getElementById("connection");
  let heard = Date.now(), lostAt = null, signedOut = false;

  function lose(event) {
    if (event?.detail?.status === 401 || event?.detail?.ctx?.response?.status === 401) signedOut = true;
    lostAt ??= Date.now();
  }

  function hear() {
    heard = Date.now();
    lostAt = null;
    signedOut = false;
    showConnection();
  }

  function showConnection() {
    if (document.hidden) return;
    const isAway = document.querySelector("#freshness [data-away]") !== null;
    if (lostAt === null && !isAway && Date.now() - heard > SILENT_MS) lostAt = heard;
    const isLost = lostAt !== null && (signedOut || Date.now() - lostAt > GRACE_MS);
    const state = isLost ? (signedOut ? "signed-out" : "lost") : "connected";
    if (document.documentElement.dataset.connection === state) return;
    document.documentElement.dataset.connection = state;
    words.textContent = "";
    if (!isLost) return;
    const since = text(new Date(heard), "clock");
    words.textContent = signedOut
      ? `You are signed out. Numbers are those of ${since}. `
      : `Connection lost at ${since}; numbers are of then. Trying again.`;
    if (signedOut) {
      const link = document.createElement("a");
      link.href = stream.dataset.signIn;
      link.textContent = "Sign in";
      words.append(link);
    }
  }

  function watch() {
    stream.addEventListener("htmx:sse:after:message", hear);
    for (const name of ["htmx:sse:error", "htmx:sse:close", "htmx:response:error", "htmx:error"]) {
      stream.addEventListener(name, lose);
    }
    stream.addEventListener("htmx:sse:before:connection", event => {
      if (event.detail.connection.attempt > 0) lose();
    });
    document.addEventListener("visibilitychange", () => {
      // a page in the background has no stream, which is no loss
      if (!document.hidden) { heard = Date.now(); lostAt = null; }
    });
    setInterval(showConnection, 500);
  }

  // A screen at a wall outlives upgrades: another build has other files. Not while somebody types.
  function followUpgrade() {
    const build = document.querySelector("#freshness [data-build]")?.dataset.build;
    const isTyping = document.activeElement?.matches("input, select") ?? false;
    if (!stream || !build || build === stream.dataset.build || isTyping) return;
    // at most once a minute: while an upgrade goes on, both builds answer
    if (Date.now() - Number(sessionStorage.getItem("reloaded") ?? 0) < 60000) return;
    sessionStorage.setItem("reloaded", Date.now());
    location.reload();
  }

  // A row that a mark removes from the page takes the focus with it: the result is where to go on, and where to undo.
  const marks = document.getElementById("marks"), result = document.getElementById("mark-result");
  let marked = false;

  function keepFocus() {
    if (!marked || document.activeElement !== document.body || !result.firstElementChild) return;
    marked = false;
    result.focus({preventScroll: true});
  }

  marks?.addEventListener("submit", () => { marked = true; });

  const zone = document.getElementById("zone");
  if (zone) zone.textContent = `: ${Intl.DateTimeFormat().resolvedOptions().timeZone}`;
  showTimes(document);
  setInterval(() => showTimes(document), 10000);
  document.addEventListener("htmx:after:swap", () => {
    showTimes(document);
    keepFocus();
    followUpgrade();
  });
  if (stream && words) watch();
})();
