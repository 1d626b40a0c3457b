// The page: what the server says, put where it belongs. Ids and titles are anyone's text: they only become text nodes.

import { Chart } from "./chart.js";

const ROWS = 14;
const SAMPLES = 600;
const USER_MS = 1000;
const UNKNOWN_USER_MS = 5000;

const get = (id) => document.getElementById(id);
const number = (value, digits = 0) =>
  value == null ? "–" : value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
const percent = (value) =>
  value == null ? "–" : `${(100 * value).toLocaleString("en", { maximumFractionDigits: 1 })} %`;
const short = (value) => (value >= 10_000 ? `${number(value / 1000)}k` : number(value, value < 10 && value % 1 ? 1 : 0));
const time = (ms) => new Date(ms).toLocaleTimeString("en-GB");
const put = (id, words) => {
  if (get(id).textContent !== words) get(id).textContent = words;
};

/** An element with a class and children; a string is text. */
function element(name, kind, ...children) {
  const made = document.createElement(name);
  if (kind) made.className = kind;
  made.append(...children);
  return made;
}

const titled = (item) => item.title ?? item.item_id;

// Numbers and charts

const charts = [
  new Chart(get("traffic-chart"), "Events and lists per second",
    [{ key: "events", name: "events" }, { key: "lists", name: "lists" }], short),
  new Chart(get("latency-chart"), "Milliseconds from event to list",
    [{ key: "p50_ms", name: "p50" }, { key: "p99_ms", name: "p99" }], short),
  new Chart(get("hits-chart"), "Hit rate at 10",
    [{ key: "hit_rate", name: "lists" }, { key: "popular_hit_rate", name: "popular" }], percent),
  new Chart(get("lag-chart"), "Events not committed", [{ key: "lag", name: "lag" }], short),
];
let samples = [];

function showNumbers({ numbers, models, rows_a_second }) {
  put("events-per-s", number(numbers.events_per_s, numbers.events_per_s < 10 ? 1 : 0));
  put("p50", number(numbers.p50_ms, numbers.p50_ms < 10 ? 1 : 0));
  put("p99", number(numbers.p99_ms, numbers.p99_ms < 10 ? 1 : 0));
  put("hit-rate", percent(numbers.hit_rate));
  const times = numbers.hit_rate && numbers.popular_hit_rate ? numbers.hit_rate / numbers.popular_hit_rate : null;
  put("hit-note", times ? `${number(times, 1)} × most popular` : "");
  put("lag", number(numbers.lag));
  const sampled = numbers.events_per_s > rows_a_second;
  put("stream-note", sampled ? `a sample: ${rows_a_second} of ${number(numbers.events_per_s)} a second` : "every event");
  const skipped = numbers.malformed ? ` ${number(numbers.malformed)} records could not be read.` : "";
  put("counts", `${number(numbers.users)} users remembered here.${skipped}`);
  const swaps = models.filter((model) => model.in_service_ms).map((model) => model.in_service_ms / 1000);
  for (const chart of charts) chart.show(samples, swaps);
}

// Models

let modelsShown = "";

function showModels(models) {
  const text = JSON.stringify(models);
  if (text === modelsShown) return;
  modelsShown = text;
  get("models-empty").hidden = models.length > 0;
  get("models").querySelector(".scroll").hidden = models.length === 0;
  get("model-rows").replaceChildren(...models.map(modelRow));
}

function modelRow(model) {
  const recall = model.metrics.test_recall_at_10 ?? model.metrics.validation_recall_at_10;
  const took = model.in_service_ms && `after ${number((model.in_service_ms - model.announced_ms) / 1000, 1)} s`;
  const service = model.serving ? element("span", "badge", "now") : "";
  const announced = element("th", "", time(model.announced_ms));
  announced.scope = "row";
  announced.title = `version ${model.version}`;
  return element("tr", "", announced, element("td", "", service, took || (model.serving ? "" : "–")),
    element("td", "", number(recall, 3)), element("td", "", number(model.items)),
    element("td", "", number(model.lists)));
}

// The stream

let paused = false;

function showRows(rows) {
  if (paused) return;
  get("rows").prepend(...rows.map(streamRow).reverse());
  while (get("rows").children.length > ROWS) get("rows").lastChild.remove();
  get("rows-empty").hidden = get("rows").children.length > 0;
}

function streamRow(row) {
  const who = element("button", "who", row.user_id);
  who.type = "button";
  who.title = "Show this user";
  who.addEventListener("click", () => choose(row.user_id));
  const facts = element("span", "facts");
  if (row.hit) {
    const badge = element("span", "badge", "foreseen");
    badge.title = "It was in the user's list before";
    facts.append(badge);
  }
  facts.append(row.list ? `${number(row.latency_ms, row.latency_ms < 10 ? 1 : 0)} ms` : "no list");
  const list = element("p", "list-line");
  (row.list ?? []).forEach((item, rank) => list.append(element("b", "", `${rank + 1} `), titled(item), "  "));
  const at = element("time", "", time(row.sent_ms));
  return element("li", "", at, element("span", "what", who, titled(row)), facts, list);
}

get("pause").addEventListener("click", () => {
  paused = !paused;
  get("pause").setAttribute("aria-pressed", String(paused));
  get("pause").textContent = paused ? "Go on" : "Pause";
});

// One user: chosen by the address, so that it can be kept and sent

let userShown = "";
let nextLookMs = 0;

const chosen = () => new URLSearchParams(location.hash.slice(1)).get("user");

function choose(user) {
  location.hash = user === null ? "" : new URLSearchParams({ user }).toString();
}

async function showUser() {
  const user = chosen();
  if (user === null || Date.now() < nextLookMs) return;
  try {
    const answer = await fetch(`users/${encodeURIComponent(user)}`);
    nextLookMs = answer.ok ? 0 : Date.now() + UNKNOWN_USER_MS;
    const found = await answer.text();
    if (user !== chosen() || found === userShown) return;
    userShown = found;
    drawUser(user, answer.ok ? JSON.parse(found) : null);
  } catch {
    put("user-said", "The console does not answer.");
    userShown = "";
  }
}

function drawUser(user, found) {
  put("user-title", `User ${user}`);
  get("user-found").hidden = !found;
  get("close").hidden = false;
  if (!found) {
    put("user-said", "No recent event of this user is remembered here.");
    return;
  }
  const { history, list, moved } = found;
  const last = history[0] ? titled(history[0]) : "";
  const changes = moved ? `: ${moved.entered.length} entered, ${Object.keys(moved.up).length} up, ` +
    `${Object.keys(moved.down).length} down` : "";
  put("user-said", `${number(history.length)} events here${last && `, the last one ${last}${changes}`}.`);
  put("list-title", list ? `List of ${list.items.length}, ${list.history_length} events in its history` : "No list yet");
  get("list").replaceChildren(...(list?.items ?? []).map((item, at) => listRow(item, at + 1, moved)));
  put("left", moved?.left.length ? `Left: ${moved.left.map((item) => `${titled(item)} (was ${item.was})`).join(" · ")}` : "");
  get("history").replaceChildren(...history.map((event) =>
    element("li", "", element("span", "name", titled(event)), element("time", "", time(event.sent_ms)))));
}

function listRow(item, rank, moved) {
  const up = moved?.up[item.item_id];
  const down = moved?.down[item.item_id];
  const [kind, words, said] =
    up ? ["up", `▲ ${up}`, `up ${up}`]
    : down ? ["down", `▼ ${down}`, `down ${down}`]
    : moved?.entered.includes(item.item_id) ? ["new", "entered", "entered"] : ["", "", ""];
  const move = element("span", `moved ${kind}`, words);
  if (said) move.setAttribute("aria-label", said), move.setAttribute("role", "img");
  return element("li", "", element("span", "rank", String(rank)), element("span", "name", titled(item)), move,
    element("span", "score", number(item.score, 2)));
}

function turnToUser() {
  const user = chosen();
  userShown = "";
  nextLookMs = 0;
  get("find").value = user ?? "";
  if (user === null) {
    put("user-title", "A user");
    put("user-said", "Search for a user, or choose one among the events.");
    get("user-found").hidden = get("close").hidden = true;
    return;
  }
  put("user-said", "Looking …");
  showUser().then(() => get("user-title").focus());
}

get("find-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const user = get("find").value.trim();
  if (user === chosen()) turnToUser();
  else choose(user);
});
get("close").addEventListener("click", () => {
  choose(null);
  get("find").focus();
});
addEventListener("hashchange", turnToUser);
addEventListener("keydown", (event) => {
  if (event.key === "/" && document.activeElement !== get("find") && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    get("find").select();
  }
});

// What the server says

function showStatus(state, words) {
  get("status").dataset.state = state;
  put("status", words);
}

function showBroker({ broker, numbers, cluster }) {
  if (broker.state === "connecting") showStatus("connecting", `Connecting to ${cluster}`);
  else if (broker.state === "away") showStatus("away", `Kafka cannot be read since ${time(broker.since_ms)}: ${broker.said}`);
  else if (numbers.behind > 5000) showStatus("connecting", `Reading, ${number(numbers.behind)} events to go`);
  else showStatus("live", "Live");
}

function follow() {
  const live = new EventSource("live");
  live.addEventListener("message", ({ data }) => {
    const update = JSON.parse(data);
    const last = samples.at(-1)?.at ?? 0; // after a reconnection the server may begin again
    samples = [...samples, ...update.samples.filter((sample) => sample.at > last)].slice(-SAMPLES);
    put("where", `${update.app} on ${update.cluster}`);
    showBroker(update);
    showNumbers(update);
    showModels(update.models);
    showRows(update.rows);
  });
  live.addEventListener("error", () => {
    showStatus("away", "The console does not answer; trying again");
    if (live.readyState === EventSource.CLOSED) setTimeout(follow, 2000);
  });
}

// a token stays in a cookie, not in the address
if (location.search) history.replaceState(null, "", location.pathname + location.hash);
follow();
setInterval(showUser, USER_MS);
if (chosen() !== null) turnToUser();
