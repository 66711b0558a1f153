// Tables of six rows and more sort by a button in a column's head; those of twelve and more filter as well.
"use strict";

// What the theme leaves without a name, or without a way to scroll by keyboard.
document.querySelector(".md-search")?.setAttribute("aria-label", "Search");
for (const name of ["drawer", "search"]) document.getElementById(`__${name}`)?.setAttribute("aria-label", `Open ${name}`);
document.addEventListener("DOMContentLoaded", () => { // when the theme has wrapped the tables
  for (const part of document.querySelectorAll(".md-typeset__scrollwrap")) part.tabIndex = 0;
});

for (const table of document.querySelectorAll(".md-content table")) {
  const body = table.tBodies[0];
  if (!body || !table.tHead || body.rows.length < 6 || table.closest(".schedule, .highlighttable")) continue;
  const heads = [...table.tHead.rows[0].cells];

  const value = (row, column) => row.cells[column]?.textContent.trim() ?? "";
  const number = (text) => {
    const found = text.replace("−", "-").match(/^[^\d+-]{0,2}([+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?)/i);
    return found ? parseFloat(found[1]) : NaN;
  };
  const compare = (a, b) => {
    const [x, y] = [number(a), number(b)];
    if (!Number.isNaN(x) && !Number.isNaN(y)) return x - y;
    if (Number.isNaN(x) !== Number.isNaN(y)) return Number.isNaN(x) ? 1 : -1;
    return a.localeCompare(b);
  };

  heads.forEach((head, column) => {
    if (!head.textContent.trim()) return;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows].sort((a, b) => compare(value(a, column), value(b, column)));
      body.append(...(down ? rows.reverse() : rows));
    });
  });

  if (body.rows.length < 12) continue;
  const total = body.rows.length;
  const filter = document.createElement("input");
  const shown = document.createElement("span");
  const line = document.createElement("p");
  filter.type = "search";
  filter.placeholder = "Filter rows";
  filter.setAttribute("aria-label", "Filter the rows of this table");
  shown.setAttribute("role", "status");
  line.className = "filter";
  line.append(filter, " ", shown);
  table.before(line);
  filter.addEventListener("input", () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let left = 0;
    for (const row of body.rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      left += row.hidden ? 0 : 1;
    }
    shown.textContent = words.length ? `${left} of ${total} rows` : "";
  });
}
