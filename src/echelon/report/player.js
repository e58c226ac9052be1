// Plays recorded trials: every method's run of one trial side by side, on one clock.
// Plain canvas, no library; the data stand in <script id="traces" type="application/json">.
"use strict";
(() => {
  const source = document.getElementById("traces");
  if (!source) return;
  const traces = JSON.parse(source.textContent);
  const root = document.getElementById("player");
  const find = (name) => root.querySelector(`[data-part="${name}"]`);
  const [picker, splits, outcomes, stage, play, scrub, speed, clock, caption] = [
    "trial", "split", "outcome", "stage", "play", "scrub", "speed", "clock", "caption",
  ].map(find);
  const still = window.matchMedia("(prefers-reduced-motion: reduce)");
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const STEPS_PER_SECOND = 30;
  const TRAIL = 45; // steps that the bright part of the trail is long

  let trace, views, last, time, playing = false, stamp = 0;

  const colour = (name) =>
    getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const look = (run) =>
    run.method === "hierarchical" ? "hierarchical" : run.method === "flat" ? "flat" : "same-cost";

  // ---- picking a trial

  function matches(t) {
    if (splits.value && t.split !== splits.value) return false;
    const [first, second] = t.runs;
    switch (outcomes.value) {
      case "differ": return second && first.success !== second.success;
      case "success": return t.runs.every((run) => run.success);
      case "failure": return t.runs.every((run) => !run.success);
      default: return true;
    }
  }

  function refill() {
    picker.replaceChildren();
    traces.forEach((t, index) => {
      if (!matches(t)) return;
      const marks = t.runs.map((run) => `${run.method} ${run.success ? "✓" : "✗"}`).join(", ");
      picker.add(new Option(`trial ${t.trial} · ${t.distance_cells} cells · ${marks}`, index));
    });
    const none = picker.options.length === 0;
    picker.disabled = none;
    if (none) picker.add(new Option("no such trial was recorded", ""));
    else choose(Number(picker.value));
  }

  function choose(index) {
    trace = traces[index];
    last = Math.max(...trace.runs.map((run) => run.path.length - 1), 1);
    stage.replaceChildren();
    views = trace.runs.map((run) => {
      const box = document.createElement("figure");
      box.className = "view";
      const title = document.createElement("figcaption");
      const name = document.createElement("b");
      name.textContent = run.method;
      name.style.color = `var(--${look(run)})`;
      const state = document.createElement("span");
      const canvas = document.createElement("canvas");
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label",
        `${run.method} (${run.setting}): ${run.success ? "reaches the goal" : "does not reach the goal"}`
        + ` in ${run.path.length - 1} steps, ${trace.distance_cells} cells away`);
      title.append(name, state);
      box.append(title, canvas);
      stage.append(box);
      return { run, canvas, state };
    });
    caption.textContent = `Goals ${trace.split}, trial ${trace.trial}: start and goal are `
      + `${trace.distance_cells} cells of path apart.`;
    scrub.max = last;
    pause();
    seek(last); // a still that shows the whole run; play begins anew
  }

  // ---- drawing

  function draw(view) {
    const { run, canvas } = view;
    const rows = trace.layout.length, columns = trace.layout[0].length;
    const width = canvas.clientWidth || 300;
    const height = (width * rows) / columns;
    const ratio = window.devicePixelRatio || 1;
    canvas.style.height = `${height}px`;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    const g = canvas.getContext("2d");
    const cell = canvas.width / columns;
    g.lineCap = g.lineJoin = "round";
    const at = ([row, column]) => [column * cell, row * cell];
    const disc = (place, radius) => {
      g.beginPath();
      g.arc(...at(place), radius * cell, 0, 2 * Math.PI);
    };

    g.fillStyle = colour("floor");
    g.fillRect(0, 0, canvas.width, canvas.height);
    g.fillStyle = colour("wall");
    trace.layout.forEach((row, r) => row.forEach((wall, c) => {
      // Whole pixels, so that no seams show between cells.
      const [x, y] = [Math.round(c * cell), Math.round(r * cell)];
      if (wall) g.fillRect(x, y, Math.round((c + 1) * cell) - x, Math.round((r + 1) * cell) - y);
    }));

    const own = colour(look(run)), ink = colour("ink"), goal = colour("goal");
    g.lineWidth = 0.09 * cell;
    g.strokeStyle = ink;
    g.strokeRect((trace.start[1] - 0.26) * cell, (trace.start[0] - 0.26) * cell, 0.52 * cell, 0.52 * cell);
    g.fillStyle = g.strokeStyle = goal;
    disc(trace.goal, 0.42); g.globalAlpha = 0.25; g.fill();
    g.globalAlpha = 1; g.lineWidth = 0.1 * cell; g.stroke();
    disc(trace.goal, 0.14); g.fill();

    const now = Math.min(Math.floor(time), run.path.length - 1);
    const done = now === run.path.length - 1;
    g.strokeStyle = own;
    g.lineWidth = 0.1 * cell;
    g.globalAlpha = done ? 0.75 : 0.35;
    g.beginPath();
    run.path.slice(0, now + 1).forEach((place) => g.lineTo(...at(place)));
    g.stroke();
    g.lineWidth = 0.2 * cell;
    for (let i = Math.max(1, now - TRAIL); i <= now && !done; i++) {
      g.globalAlpha = 0.8 * (1 - (now - i) / TRAIL);
      g.beginPath();
      g.moveTo(...at(run.path[i - 1]));
      g.lineTo(...at(run.path[i]));
      g.stroke();
    }
    g.globalAlpha = 1;

    const plan = done ? undefined : run.subgoals.filter((s) => s.step <= now).at(-1);
    const ball = run.path[now];
    if (plan) {
      g.strokeStyle = ink;
      g.lineWidth = 0.06 * cell;
      g.setLineDash([0.16 * cell, 0.16 * cell]);
      g.beginPath();
      g.moveTo(...at(ball));
      plan.places.forEach((place) => g.lineTo(...at(place)));
      g.stroke();
      g.setLineDash([]);
      g.lineWidth = 0.09 * cell;
      g.fillStyle = colour("floor");
      plan.places.forEach((place) => { disc(place, 0.2); g.fill(); g.stroke(); });
      g.fillStyle = ink;
      disc(plan.active, 0.24); g.fill();
    }
    g.fillStyle = own;
    g.strokeStyle = colour("panel");
    g.lineWidth = 0.08 * cell;
    disc(ball, 0.3); g.fill(); g.stroke();

    const end = run.path.length - 1;
    view.state.textContent = !done ? "under way"
      : run.success ? `✓ reached at step ${end}` : `✗ not reached in ${end} steps`;
    view.state.textContent += ` · ${run.tflops.toPrecision(2)} TFLOPs`;
  }

  // ---- time

  function seek(step) {
    time = Math.min(Math.max(step, 0), last);
    scrub.value = Math.floor(time);
    scrub.setAttribute("aria-valuetext", `step ${Math.floor(time)} of ${last}`);
    clock.textContent = `step ${Math.floor(time)} / ${last}`;
    views.forEach(draw);
  }

  function frame(now) {
    if (!playing) return;
    const passed = stamp ? (now - stamp) / 1000 : 0;
    stamp = now;
    seek(time + Math.min(passed, 0.1) * STEPS_PER_SECOND * Number(speed.value));
    if (time >= last) pause();
    else requestAnimationFrame(frame);
  }

  function start() {
    if (time >= last) seek(0);
    playing = true;
    stamp = 0;
    play.textContent = "Pause";
    requestAnimationFrame(frame);
  }

  function pause() {
    playing = false;
    play.textContent = "Play";
  }

  // ---- wiring

  [...new Set(traces.map((t) => t.split))].forEach((name) => splits.add(new Option(name, name)));
  // Whoever touches the player is in charge of it: it no longer starts by itself.
  root.addEventListener("pointerdown", () => observer?.disconnect());
  root.addEventListener("keydown", () => observer?.disconnect());
  play.addEventListener("click", () => (playing ? pause() : start()));
  scrub.addEventListener("input", () => { pause(); seek(Number(scrub.value)); });
  picker.addEventListener("change", () => choose(Number(picker.value)));
  splits.addEventListener("change", refill);
  outcomes.addEventListener("change", refill);
  dark.addEventListener("change", () => seek(time));
  new ResizeObserver(() => views && views.forEach(draw)).observe(stage);

  refill();
  const first = Number(root.dataset.first);
  picker.value = first;
  choose(first);

  // Plays by itself once, when it comes into view, unless the reader prefers stillness.
  const observer = "IntersectionObserver" in window && !still.matches
    ? new IntersectionObserver((entries) => {
        if (!entries.some((entry) => entry.isIntersecting)) return;
        observer.disconnect();
        start();
      }, { threshold: 0.6 })
    : null;
  observer?.observe(stage);
})();
