// Steps through a schedule. Every number comes from the page's JSON, which docs/schedule.py makes; here it is drawn only.
"use strict";

for (const place of document.querySelectorAll(".schedule")) {
  const laws = JSON.parse(place.querySelector("script").textContent);
  const state = { law: Object.keys(laws)[0], stages: 4, tick: 0, timer: 0 };

  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };
  const select = (label, options, chosen, change) => {
    const list = make("select", {}, ...options.map(([value, text]) => make("option", { value }, text)));
    list.value = chosen;
    list.addEventListener("change", () => change(list.value));
    return make("label", {}, label, " ", list);
  };
  const button = (title, text, press) => {
    const made = make("button", { type: "button", class: "md-button", title }, text);
    made.addEventListener("click", press);
    return made;
  };

  const rows = () => laws[state.law].stages[state.stages];
  const last = () => rows()[0].length - 1;
  const restart = (change) => (value) => {
    stop();
    change(value);
    state.tick = 0;
    build();
  };

  const play = button("p", "▶ Play", () => (state.timer ? stop() : start()));
  const controls = make(
    "div",
    { class: "schedule-controls" },
    select("Delay law", Object.entries(laws).map(([name, law]) => [name, law.label]), state.law,
      restart((value) => (state.law = value))),
    select("Stages", Object.keys(laws[state.law].stages).map((n) => [n, n]), state.stages,
      restart((value) => (state.stages = value))),
    button("Back to the start", "Start", () => go(0)),
    button("One tick back", "◀ Back", () => go(state.tick - 1)),
    button("One tick on", "Step ▶", () => go(state.tick + 1)),
    play,
  );
  const said = make("p", { class: "schedule-said", role: "status" });
  const grid = make("div", { class: "schedule-scroll", tabindex: "0", role: "region", "aria-label": "Schedule" });
  const now = make("div", { class: "schedule-scroll", tabindex: "0", role: "region", "aria-label": "This tick" });
  const keys = make("p", { class: "schedule-keys" },
    "Above, F is a forward and B a backward task, with the number of the mini-batch, and a column is a tick; below is what ",
    "each stage does in this tick. Keys, where the focus is in this figure: ← and → step, Home goes to the start, p plays.");
  place.replaceChildren(controls, said, grid, now, keys);

  function stop() {
    clearInterval(state.timer);
    state.timer = 0;
    play.textContent = "▶ Play";
    said.setAttribute("role", "status");
  }
  function start() {
    if (state.tick === last()) go(0);
    said.removeAttribute("role"); // a screen reader need not follow every tick
    play.textContent = "⏸ Pause";
    state.timer = setInterval(() => (state.tick === last() ? stop() : show(state.tick + 1)), 800);
  }
  function go(tick) {
    stop();
    show(tick);
  }

  function table(head, body) {
    const cells = head.map((text) => make("th", { scope: "col" }, text));
    return make("table", { class: "schedule-table" }, make("thead", {}, make("tr", {}, ...cells)),
      make("tbody", {}, ...body));
  }
  const heading = (stage) => make("th", { scope: "row" }, `stage ${stage}`);

  function build() {
    const body = rows().map((row, stage) => {
      const cells = row.map(([forward, , backward]) => {
        const cell = make("td");
        if (forward !== null) cell.append(make("span", { class: "schedule-f" }, `F${forward}`));
        if (backward !== null) cell.append(make("span", { class: "schedule-b" }, `B${backward}`));
        return cell;
      });
      return make("tr", {}, heading(stage), ...cells);
    });
    grid.replaceChildren(table(["tick", ...rows()[0].map((_, tick) => tick)], body));
    show(state.tick);
  }

  function mark(stage, tick) {
    // Of the gradient that arrives: its forward task, and the updates between.
    const row = rows()[stage];
    const [, , batch, , between] = row[tick];
    const cells = [...grid.querySelectorAll("tbody tr")[stage].querySelectorAll("td")];
    for (const cell of cells) cell.classList.remove("mine", "between");
    if (batch === null) return;
    cells[row.findIndex(([forward]) => forward === batch)].classList.add("mine");
    row.forEach(([, , other], at) => {
      if (other !== null && other < batch && other >= batch - between) cells[at].classList.add("between");
    });
  }

  function told([forward, reads, backward, read, between]) {
    const no = "–";
    return [
      forward === null ? no : `F${forward} reads W(${reads})`,
      backward === null ? no : `B${backward}`,
      backward === null ? no : `W(${read})`,
      backward === null ? no : `W(${backward})`,
      backward === null ? no : `${between}`,
      backward === null ? no : `W(${backward + 1})`,
    ];
  }

  function show(tick) {
    state.tick = Math.max(0, Math.min(last(), tick));
    const columns = grid.querySelectorAll("thead th");
    columns.forEach((cell, at) => cell.classList.toggle("now", at === state.tick + 1));
    grid.querySelectorAll("tbody tr").forEach((row, stage) => {
      row.querySelectorAll("td").forEach((cell, at) => {
        cell.classList.toggle("now", at === state.tick);
        cell.classList.toggle("later", at > state.tick);
      });
      mark(stage, state.tick);
    });
    const head = ["stage", "forward", "backward", "its forward read", "the stage holds", "updates between", "update makes"];
    const body = rows().map((row, stage) =>
      make("tr", {}, heading(stage), ...told(row[state.tick]).map((text) => make("td", {}, text))));
    now.replaceChildren(table(head, body));
    const [, , backward, , between] = rows()[0][state.tick];
    const first = backward === null ? "no gradient has come back to stage 0 in it"
      : `at stage 0 the gradient of mini-batch ${backward} comes ${between} update${between === 1 ? "" : "s"} late`;
    said.textContent = `Tick ${state.tick} of ${last()}: ${first}.`;
    const left = columns[state.tick + 1].offsetLeft;
    grid.scrollLeft = Math.max(0, left - grid.clientWidth * 0.7);
  }

  place.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: () => go(state.tick - 1), ArrowRight: () => go(state.tick + 1), Home: () => go(0),
      p: () => play.click() };
    if (event.target.tagName === "SELECT" || event.ctrlKey || event.altKey || event.metaKey || !steps[event.key]) return;
    event.preventDefault();
    event.stopPropagation(); // to the theme p means the previous page
    steps[event.key]();
  });
  build();
}
