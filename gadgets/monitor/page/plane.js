// The (slice, ky) plane: a row for every slice, a column for every line, and how long masks took.

const LABELS = 44; // px for the numbers of slices
const GAP = 18;
const TIMES = 0.24; // share of the width for latencies
const NUMBER = 58; // px of it for the latency in words
const AXIS = 24; // px above and below the rows
const ROW = { least: 5, most: 30 };
const FULL = 1.25; // the latency scale in deadlines

export function drawPlane(canvas, scan, rows, fresh, shown) {
  const colours = colour(canvas);
  const n = Math.max(scan.slices ?? 0, ...rows.map((row) => row.slice + 1), 1);
  const high = Math.min(ROW.most, Math.max(ROW.least, Math.floor(440 / n)));
  const width = canvas.clientWidth;
  const height = 2 * AXIS + n * high;
  const ratio = window.devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.style.height = `${height}px`;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const ink = canvas.getContext("2d");
  ink.setTransform(ratio, 0, 0, ratio, 0, 0);
  ink.clearRect(0, 0, width, height);
  ink.font = `14px ${getComputedStyle(canvas).fontFamily}`;
  ink.textBaseline = "middle";
  const times = rows.some((row) => row.mask) ? Math.max(116, TIMES * width) : 0;
  const plane = {
    left: LABELS,
    width: width - LABELS - (times ? times + GAP : 0),
    first: scan.ky_min,
    count: scan.ky_max - scan.ky_min + 1,
  };
  const known = new Map(rows.map((row) => [row.slice, row]));
  const every = Math.ceil(18 / high); // so that numbers of slices do not touch
  for (let slice = 0; slice < n; slice += 1) {
    const top = AXIS + slice * high;
    const row = known.get(slice);
    ink.fillStyle = slice === shown ? colours.ink : colours.soft;
    ink.textAlign = "right";
    if (slice % every === 0 || slice === shown) {
      if (slice === shown || Math.abs(slice - shown) >= every) {
        ink.fillText(slice, LABELS - 12, top + high / 2);
      }
    }
    const bar = { top: top + (high > 8 ? 2 : 0.5), high: high - (high > 8 ? 4 : 1) };
    drawTrack(ink, plane, bar, scan, colours);
    if (row) drawLines(ink, plane, bar, scan, row, fresh.get(slice), colours);
    if (times && row?.mask) {
      drawTime(ink, width - times, times, bar, scan, row, colours, high >= 16);
    }
  }
  drawAxis(ink, plane, height, scan, times ? width - times : 0, times, colours);
}

function colour(canvas) {
  const style = getComputedStyle(canvas);
  const names = ["track", "ink", "soft", "arrived", "calibration", "fallback", "rule"];
  return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}

function drawTrack(ink, plane, bar, scan, colours) {
  ink.fillStyle = colours.track;
  const there = scan.hello?.acquirable;
  const first = there ? there[0] : plane.first;
  const last = there ? there[there.length - 1] : plane.first + plane.count - 1;
  const left = edge(plane, first);
  ink.fillRect(left, bar.top, edge(plane, last + 1) - left, bar.high);
}

function edge(plane, counter) {
  return Math.round(plane.left + ((counter - plane.first) / plane.count) * plane.width);
}

function drawLines(ink, plane, bar, scan, row, fresh, colours) {
  const got = new Set(row.got);
  const calibration = new Set(scan.hello?.calibration ?? []);
  const wanted = row.applied ?? row.asked ?? [];
  const paint = (counter, fill) => {
    const [left, right] = [edge(plane, counter), edge(plane, counter + 1)]; // on whole pixels
    ink.fillStyle = fill;
    ink.fillRect(left, bar.top, Math.max(1, right - left - (right - left > 3 ? 1 : 0)), bar.high);
  };
  const ours = row.state === "fallback" ? colours.fallback : colours.arrived;
  ink.globalAlpha = 0.4;
  for (const counter of wanted) if (!got.has(counter)) paint(counter, ours);
  ink.globalAlpha = 1;
  for (const counter of got) {
    paint(counter, calibration.has(counter) || fresh?.has(counter) ? colours.calibration : ours);
  }
}

function drawTime(ink, left, wide, bar, scan, row, colours, words) {
  const deadline = scan.hello?.deadline_ms;
  const full = deadline ? deadline * FULL : Math.max(50, row.mask.ms);
  const length = Math.max(3, Math.min(1, row.mask.ms / full) * (wide - NUMBER));
  const thin = Math.min(6, bar.high);
  ink.fillStyle = row.state === "fallback" ? colours.fallback : colours.arrived;
  ink.fillRect(left, bar.top + (bar.high - thin) / 2, length, thin);
  if (words) {
    ink.fillStyle = colours.ink;
    ink.textAlign = "right";
    const text = `${row.mask.ms.toFixed(row.mask.ms < 10 ? 1 : 0)} ms`;
    ink.fillText(text, left + wide, bar.top + bar.high / 2);
  }
}

function drawAxis(ink, plane, height, scan, left, times, colours) {
  const centre = plane.left + ((scan.center - plane.first + 0.5) / plane.count) * plane.width;
  ink.fillStyle = colours.soft;
  ink.textAlign = "center";
  ink.fillText("ky = 0", centre, height - AXIS / 2);
  ink.textAlign = "left";
  ink.fillText("slice", 0, AXIS / 2);
  const deadline = scan.hello?.deadline_ms;
  if (times && deadline) {
    ink.fillRect(left + (times - NUMBER) / FULL, AXIS, 2, height - 2 * AXIS);
    ink.textAlign = "right";
    ink.fillText(`deadline ${deadline} ms`, left + times, AXIS / 2);
  } else if (times) {
    ink.fillText("time to mask", left, AXIS / 2);
  }
}
