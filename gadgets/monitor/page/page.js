// Follows the host's events. Each message says what has changed, as a whole: one that is lost does
// no harm. Everything from the host enters the page as text, never as HTML.

import { drawPlane } from "./plane.js";

const SILENT_MS = 5000; // without a sign of life before the page says so
const STATES = {
  lines: "Measuring",
  mask: "Mask decided",
  predicted: "Predicted mask",
  fixed: "Fixed mask, by the guard",
  fallback: "Fallback mask",
};
const $ = (id) => document.getElementById(id);
const still = window.matchMedia("(prefers-reduced-motion: reduce)");

const scans = new Map(); // by id: {head, rows: Map(slice -> row), fresh: Map(slice -> Set)}
let chosen = null; // a scan that somebody picked, else the latest
let pinned = null; // a slice that somebody picked, else the latest decided
let heard = performance.now();
let host = {};
let told = "";

function take(message) {
  heard = performance.now();
  if (message.all) scans.clear();
  if (message.host) host = message.host;
  for (const scan of scans.values()) scan.fresh.clear();
  for (const { rows, ...head } of message.scans) {
    const scan = scans.get(head.scan) ?? { rows: new Map(), fresh: new Map() };
    scan.head = head;
    for (const row of rows) {
      const before = scan.rows.get(row.slice);
      const old = new Set(before?.repetition === row.repetition ? before.got : []);
      if (!still.matches) {
        scan.fresh.set(row.slice, new Set(row.got.filter((counter) => !old.has(counter))));
      }
      scan.rows.set(row.slice, row);
    }
    scans.set(head.scan, scan);
  }
  show();
}

function current() {
  const all = [...scans.values()];
  const running = all.filter((scan) => scan.head.state === "running");
  return scans.get(chosen) ?? running.at(-1) ?? all.at(-1);
}

function show() {
  const silent = performance.now() - heard > SILENT_MS;
  document.body.classList.toggle("stale", silent);
  const scan = current();
  const trouble = silent ? "The host does not answer. What stands here is old." : host.trouble;
  write("alert", trouble || (scan?.head.state === "failed" ? scan.head.words : ""));
  showHost(silent);
  showScans(scan);
  $("scan").hidden = !scan || scan.head.ky_max === undefined;
  if (!scan) {
    headline("No scan yet", host.unready ? `Not ready: ${host.unready}` : "This page follows the next scan by itself.");
    return;
  }
  const rows = [...scan.rows.values()].sort((a, b) => a.slice - b.slice);
  showHeadline(scan.head, rows);
  if ($("scan").hidden) return;
  const row = scan.rows.get(pinned) ?? latest(scan, rows);
  showDecision(row);
  showImage(scan, row, rows);
  showStrip(scan, rows);
  drawPlane($("plane"), scan.head, rows, scan.fresh, row?.slice);
  $("plane").setAttribute("aria-label", inWords(scan.head, rows));
  if ($("words").open) showWords(rows);
}

function latest(scan, rows) {
  const at = scan.rows.get(scan.head.now);
  if (at && at.state !== "lines") return at;
  return rows.filter((row) => row.state !== "lines").at(-1) ?? at ?? rows.at(-1);
}

function headline(text, below) {
  write("headline", text);
  write("subline", below);
  document.title = `mnet: ${text}`;
}

function showHeadline(head, rows) {
  const total = Math.max(head.slices ?? 0, rows.length);
  const done = rows.filter((row) => row.frame && !row.frame.incomplete).length;
  const repetition = Math.max(0, ...rows.map((row) => row.repetition));
  const parts = [head.pipeline || "pipeline sent with the scan", `since ${clock(head.began)}`];
  if (head.repetitions > 1) parts.unshift(`repetition ${repetition + 1} of ${head.repetitions}`);
  parts.push(plural(head.n_images, "image"));
  if (head.n_fallbacks) parts.push(plural(head.n_fallbacks, "fallback"));
  for (const [what, n] of Object.entries(head.counts ?? {})) parts.push(`${n} ${what}`);
  const ended = { failed: "Failed", ended: "Done" }[head.state];
  const slices = total ? `${done} of ${plural(total, "slice")}` : "";
  headline([ended, slices].filter(Boolean).join(", ") || "A scan begins", total ? parts.join(", ") : "");
  news(ended ? `Scan ${ended.toLowerCase()}, ${slices}` : "Scan running", rows);
}

// What a screen reader says by itself: beginnings, ends and fallbacks, not every line.
function news(text, rows) {
  const fallen = rows.filter((row) => row.state === "fallback").map((row) => row.slice);
  const all = fallen.length ? `${text}. Fallback mask in slice ${fallen.at(-1)}` : text;
  if (all !== told) write("news", (told = all));
}

function showDecision(row) {
  const state = $("state");
  state.className = row?.state ?? "lines";
  write("state", row ? `${STATES[row.state]}, slice ${row.slice}` : "Waiting for lines");
  write("why", row?.why ?? "");
  $("follow").hidden = pinned === null;
}

function showImage(scan, row, rows) {
  const made = rows.filter((each) => each.image);
  const newest = made.reduce((a, b) => (a && a.image.n > b.image.n ? a : b), null);
  const shown = pinned !== null && row?.image ? row : newest;
  const image = $("image");
  image.hidden = !shown;
  if (!shown) return write("caption", "No image yet");
  setSource(image, scan, shown);
  image.alt = `Image of slice ${shown.slice}`;
  const ms = shown.image.ms ? `, made in ${seconds(Number(shown.image.ms))}` : "";
  write("caption", `Slice ${shown.slice}${ms}${shown.frame?.incomplete ? ", incomplete" : ""}`);
}

function showStrip(scan, rows) {
  const made = rows.filter((row) => row.image);
  $("images").hidden = made.length < 2;
  const strip = $("strip");
  for (const item of [...strip.children]) if (item.dataset.scan !== scan.head.scan) item.remove();
  for (const row of made) {
    let item = strip.querySelector(`[data-slice="${row.slice}"]`);
    if (!item) {
      item = document.createElement("li");
      item.dataset.scan = scan.head.scan;
      item.dataset.slice = row.slice;
      const button = document.createElement("button");
      button.type = "button";
      button.append(new Image(), document.createTextNode(row.slice));
      button.firstChild.alt = "";
      button.setAttribute("aria-label", `Show slice ${row.slice}`);
      button.addEventListener("click", () => pin(pinned === row.slice ? null : row.slice));
      item.append(button);
      const after = [...strip.children].find((each) => Number(each.dataset.slice) > row.slice);
      strip.insertBefore(item, after ?? null);
    }
    item.firstChild.setAttribute("aria-pressed", String(pinned === row.slice));
    setSource(item.querySelector("img"), scan, row);
  }
}

function setSource(image, scan, row) {
  const source = `/image/${scan.head.scan}/${row.slice}?n=${row.image.n}`;
  if (image.getAttribute("src") !== source) image.setAttribute("src", source);
}

function showWords(rows) {
  $("rows").replaceChildren(
    ...rows.map((row) => {
      const line = document.createElement("tr");
      const head = cell("th", row.slice);
      head.scope = "row";
      const asked = (row.applied ?? row.asked)?.length;
      line.append(
        head,
        cell("td", asked ? `${row.got.length} of ${asked}` : row.got.length),
        cell("td", row.mask ? `${row.mask.ms.toFixed(1)} ms` : ""),
        cell("td", row.image?.ms ? seconds(Number(row.image.ms)) : row.image ? "there" : ""),
        cell("td", row.why ? `${STATES[row.state]}. ${row.why}` : STATES[row.state]),
      );
      return line;
    }),
  );
}

function showScans(scan) {
  const nav = $("scans");
  nav.hidden = scans.size < 2;
  if (nav.hidden) return;
  const wanted = [...scans.values()].map(({ head }) => `${head.scan} ${head.state}`).join();
  if (nav.dataset.shows !== wanted) {
    nav.dataset.shows = wanted;
    nav.replaceChildren(
      ...[...scans.values()].map(({ head }) => {
        const button = document.createElement("button");
        button.type = "button";
        button.dataset.scan = head.scan;
        button.textContent = `${clock(head.began)} ${head.state}`;
        button.addEventListener("click", () => pick(head.scan));
        return button;
      }),
    );
  }
  for (const button of nav.children) {
    button.setAttribute("aria-current", String(button.dataset.scan === scan?.head.scan));
  }
}

function showHost(silent) {
  if (silent || host.queued === undefined) return write("host", silent ? "" : "Asking the host");
  const parts = [host.unready ? `Not ready: ${host.unready}` : "Ready"];
  parts.push(`${plural(host.queued, "item")} waiting for reconstruction`);
  if (host.dropped) parts.push(`${host.dropped} events were too many for this page`);
  write("host", `${parts.join(". ")}.`);
}

function inWords(head, rows) {
  const states = rows.map((row) => `slice ${row.slice}: ${row.got.length} lines, ${STATES[row.state]}`);
  return `Lines that have arrived. ${states.slice(-8).join("; ") || "None yet"}.`;
}

function pick(scan) {
  chosen = scan === [...scans.keys()].at(-1) ? null : scan;
  pin(null);
}

function pin(slice) {
  const focused = document.activeElement === $("follow");
  pinned = slice;
  show();
  if (focused) $("strip").querySelector("button")?.focus();
}

function cell(kind, text) {
  const made = document.createElement(kind);
  made.textContent = text;
  return made;
}

function write(id, text) {
  const element = $(id);
  if (element.textContent !== String(text ?? "")) element.textContent = text ?? "";
}

const clock = (at) => new Date(at * 1000).toTimeString().slice(0, 5);
const plural = (n, what) => `${n} ${what}${n === 1 ? "" : "s"}`;
const seconds = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);

$("follow").addEventListener("click", () => pin(null));
$("words").addEventListener("toggle", show);
document.addEventListener("keydown", (event) => event.key === "Escape" && pin(null));
new ResizeObserver(show).observe($("lines"));
new EventSource("/events").addEventListener("message", (event) => take(JSON.parse(event.data)));
setInterval(show, 1000);
