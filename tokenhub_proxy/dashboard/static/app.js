// Everything works without this file. With it: copying, local times, a filter for long lists, a
// playground that streams, and a chart of what goes on while somebody watches.
"use strict";

const language = document.documentElement.lang;

function localTimes(root) {
  const form = new Intl.DateTimeFormat(language, {
    month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23",
  });
  for (const time of root.querySelectorAll("time[datetime]")) {
    const at = new Date(time.dateTime);
    time.title = time.textContent + " UTC";
    if (at.getTimezoneOffset() !== 0) time.textContent = form.format(at);
  }
}

// A second click while a form is on its way would do its work twice. What comes back without a new page
// (a download, a lost connection) may be sent again after a while.
const SENT_MS = 5000;
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (event.defaultPrevented || form.method !== "post") return;
  if (form.dataset.sent) {
    event.preventDefault();
    return;
  }
  form.dataset.sent = "1";
  setTimeout(() => { delete form.dataset.sent; }, SENT_MS);
});
// Gone back to, a page stands as it was left.
addEventListener("pageshow", () => {
  for (const form of document.querySelectorAll("form[data-sent]")) delete form.dataset.sent;
});

async function copy(button) {
  const text = document.getElementById(button.dataset.copy).textContent;
  await navigator.clipboard.writeText(text);
  const said = button.textContent;
  button.textContent = document.body.dataset.copied;
  setTimeout(() => { button.textContent = said; }, 1500);
}

for (const button of document.querySelectorAll("[data-copy]")) {
  if (!navigator.clipboard) break;
  button.hidden = false;
  button.addEventListener("click", () => copy(button));
}

for (const box of document.querySelectorAll("[data-hides]")) {
  const hidden = document.getElementById(box.dataset.hides);
  const follow = () => { hidden.hidden = box.checked; };
  box.addEventListener("change", follow);
  follow();
}

for (const search of document.querySelectorAll("[data-filters]")) {
  const rows = [...document.getElementById(search.dataset.filters).children];
  search.hidden = rows.length < 8;
  search.addEventListener("input", () => {
    const wanted = search.value.trim().toLowerCase();
    for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
  });
}

// What a bar says, beside it and at once; without this file browsers show its title after a while.
for (const plot of document.querySelectorAll(".plot")) {
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  tip.setAttribute("aria-hidden", "true");
  plot.append(tip);
  for (const bar of plot.querySelectorAll(".bar")) {
    const title = bar.querySelector("title");
    const [total, ...parts] = title.textContent.split("\n");
    title.remove();
    const show = () => {
      const head = document.createElement("b");
      head.textContent = total;
      tip.replaceChildren(head, parts.join("\n"));
      tip.hidden = false;
      const place = bar.getBoundingClientRect();
      const frame = plot.getBoundingClientRect();
      const right = place.right - frame.left + 8;
      const left = place.left - frame.left - tip.offsetWidth - 8;
      tip.style.left = Math.max(0, right + tip.offsetWidth > frame.width ? left : right) + "px";
    };
    bar.addEventListener("pointerenter", show);
    bar.addEventListener("pointerleave", () => { tip.hidden = true; });
  }
}

// Filters apply as soon as something is chosen.
for (const form of document.querySelectorAll("form.filters")) {
  // Who goes through the choices with the arrow keys wants the one they stop at.
  let pressed = 0;
  let waiting = 0;
  form.addEventListener("keydown", () => { pressed = Date.now(); });
  form.addEventListener("change", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => form.requestSubmit(), Date.now() - pressed < 300 ? 800 : 0);
  });
}

const problem = document.querySelector(".notice[role=alert][tabindex]");
if (problem) {
  const wrong = problem.dataset.field && document.getElementById(problem.dataset.field);
  if (wrong) wrong.setAttribute("aria-invalid", "true");
  (wrong || problem).focus();
}

// --- the playground

const playground = document.getElementById("playground");
if (playground) {
  const part = (id) => document.getElementById(id);
  let stop = null;
  let ticket = null;

  async function borrowed(key) {
    if (ticket && ticket.key === key && Date.now() < ticket.until) return ticket.secret;
    const answer = await fetch("/dashboard/playground/ticket", {
      method: "POST",
      headers: { "X-CSRF-Token": playground.elements.csrf.value },
      body: new URLSearchParams({ key }),
    });
    if (!answer.ok) { location.reload(); throw new Error("signed out"); }
    ticket = { key, secret: (await answer.json()).secret, until: Date.now() + 600000 };
    return ticket.secret;
  }

  function complain(text) {
    part("play-problem").textContent = text;
    part("play-problem").hidden = false;
  }

  function say(event) {
    if (!event.startsWith("data: ") || event === "data: [DONE]") return;
    const chunk = JSON.parse(event.slice(6));
    if (chunk.error) complain(chunk.error.code + ": " + chunk.error.message);
    const delta = chunk.choices && chunk.choices[0] && chunk.choices[0].delta;
    if (delta && delta.content) part("answer").append(delta.content);
  }

  async function ask() {
    const form = playground.elements;
    stop = new AbortController();
    const answer = await fetch("/v1/chat/completions", {
      method: "POST",
      signal: stop.signal,
      headers: {
        "Authorization": "Bearer " + await borrowed(form.key.value),
        "Content-Type": "application/json",
      },
      body: JSON.stringify({
        model: form.model.value,
        stream: true,
        messages: [{ role: "user", content: form.prompt.value }],
      }),
    });
    const receipt = answer.headers.get("x-request-id");
    part("play-receipt").querySelector("a").href = "/dashboard/requests/" + receipt;
    if (!answer.ok) {
      const error = (await answer.json()).error;
      complain(error.code + ": " + error.message);
      return;
    }
    let rest = "";
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      const events = (rest + value).split("\n\n");
      rest = events.pop();
      events.forEach(say);
    }
    part("play-receipt").hidden = false;
  }

  playground.addEventListener("submit", async (event) => {
    event.preventDefault();
    const send = playground.querySelector("button.main");
    part("answer").textContent = "";
    part("play-problem").hidden = true;
    part("play-receipt").hidden = true;
    part("answer-card").hidden = false;
    part("answer-card").setAttribute("aria-busy", "true");
    part("play-stop").hidden = false;
    send.disabled = true;
    try {
      await ask();
    } catch (error) {
      complain(error.name === "AbortError" ? playground.dataset.stopped : String(error.message));
    }
    part("answer-card").removeAttribute("aria-busy");
    part("play-stop").hidden = true;
    send.disabled = false;
  });
  part("play-stop").addEventListener("click", () => stop && stop.abort());
}

// --- live

function liveChart() {
  const place = document.getElementById("live-chart");
  const colour = (name) => {
    const probe = document.createElement("i");
    probe.className = name;
    place.append(probe);
    const found = getComputedStyle(probe).backgroundColor;
    probe.remove();
    return found;
  };
  const read = () => {
    const [at, good, bad, first] = JSON.parse(document.getElementById("live-values").dataset.series);
    // Bars of all calls, and before them those that failed.
    return [at, good.map((count, step) => count + bad[step]), bad, first];
  };
  const clock = new Intl.DateTimeFormat(language, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
  const axis = {
    stroke: colour("quiet-ink"), font: "12px system-ui, sans-serif", ticks: { show: false },
    grid: { stroke: colour("rule-ink"), width: 1 },
  };
  const bars = uPlot.paths.bars({ size: [0.7, 40], align: 1 });
  const points = { show: false };
  document.getElementById("live-card").hidden = false;
  const chart = new uPlot({
    width: place.clientWidth, height: 200, cursor: { show: false }, legend: { show: false },
    scales: {
      n: { range: (u, low, high) => [0, Math.max(4, high * 1.1)] },
      ms: { range: (u, low, high) => [0, Math.max(10, high * 1.2)] },
    },
    series: [
      {},
      { scale: "n", fill: colour("s0"), paths: bars, points },
      { scale: "n", fill: colour("sbad"), paths: bars, points },
      { scale: "ms", stroke: colour("s1"), width: 2, spanGaps: true, points },
    ],
    axes: [
      { ...axis, grid: { show: false }, space: 90, values: (u, all) => all.map((at) => clock.format(at * 1000)) },
      { ...axis, scale: "n", size: 40, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000] },
      { ...axis, scale: "ms", side: 1, size: 56, grid: { show: false }, values: (u, all) => all.map((ms) => ms.toLocaleString(language) + place.dataset.unit) },
    ],
  }, read(), place);
  new ResizeObserver(() => chart.setSize({ width: place.clientWidth, height: 200 })).observe(place);
  new MutationObserver(() => chart.setData(read())).observe(document.getElementById("live"), { childList: true });
}

if (document.getElementById("live-chart") && window.uPlot) liveChart();

localTimes(document);
document.addEventListener("htmx:after:swap", () => localTimes(document));
