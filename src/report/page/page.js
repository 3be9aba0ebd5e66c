"use strict";

// A line below the first table shows a cell's hover text to those who cannot hover.
for (const cell of document.querySelectorAll("td[title]"))
  cell.addEventListener("focus", () => {
    const line = cell.closest("section").querySelector(".tip");
    if (line) line.textContent = cell.title;
  });

// Sorting: a click on a heading sorts by it, another one the other way. Cells without a value stand last.
function valueOf(row, column) {
  const cell = row.cells[column], value = cell.dataset.value ?? cell.textContent;
  return value === "" ? null : isNaN(value) ? value : Number(value);
}

function sort(table, column, ascending) {
  const sign = ascending ? 1 : -1, body = table.tBodies[0];
  const rows = [...body.rows].map(row => [valueOf(row, column), row]);
  rows.sort(([a], [b]) => a === null || b === null ? (a === null) - (b === null)
    : sign * (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b))));
  body.append(...rows.map(([, row]) => row));
}

for (const table of document.querySelectorAll("table.sortable"))
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    const button = document.createElement("button");
    button.append(...heading.childNodes);
    if (!button.textContent) button.setAttribute("aria-label", "name");
    heading.append(button);
    button.addEventListener("click", () => {
      const ascending = heading.ariaSort !== "ascending";
      for (const other of table.tHead.rows[0].cells) other.ariaSort = null;
      heading.ariaSort = ascending ? "ascending" : "descending";
      sort(table, column, ascending);
    });
  });

// Samples: two models, and what the filters leave.
function showSamples(part) {
  const data = JSON.parse(part.querySelector("script").textContent), form = part.querySelector("form"), fields = form.elements;
  const [heading] = part.querySelector("thead").rows, body = part.querySelector("tbody");
  const more = part.querySelector(".more");
  let limit = data.first;

  const option = (text, value) => Object.assign(document.createElement("option"), {textContent: text, value});
  fields.a.append(...data.models.map(({name}, i) => option(name, i)));
  fields.b.append(...data.models.map(({name}, i) => option(name, i)));
  fields.label.append(...[...new Set(data.labels)].sort().map(label => option(label, label)));
  [fields.a.value, fields.b.value] = data.pair;

  function show() {
    const a = data.models[fields.a.value], b = data.models[fields.b.value];
    const gap = i => a.means[i].reduce((sum, x, k) => sum + Math.abs(x - b.means[i][k]), 0) / (a.means[i].length > 1 ? 2 : 1);
    const found = data.names.map((name, i) => ({name, i, gap: gap(i)})).filter(({name, i}) =>
      a.errors[i] >= Number(fields.error_a.value) && b.errors[i] >= Number(fields.error_b.value)
      && (!fields.label.value || data.labels[i] === fields.label.value) && name.includes(fields.id.value));
    found.sort((x, y) => y.gap - x.gap);
    heading.cells[2].textContent = a.name;
    heading.cells[3].textContent = b.name;
    body.replaceChildren(...found.slice(0, limit).map(({name, i, gap}) => {
      const row = document.createElement("tr");
      [name, data.truths[i], a.texts[i], b.texts[i], gap.toFixed(2)].forEach((text, column) => {
        const cell = document.createElement(column ? "td" : "th");
        cell.textContent = text;
        if (!column) Object.assign(cell, {scope: "row", title: name});
        row.append(cell);
      });
      return row;
    }));
    part.querySelector(".found").textContent = `${Math.min(limit, found.length)} of ${found.length} that fit, of ${data.names.length} in all.`;
    more.hidden = found.length <= limit;
  }

  form.addEventListener("submit", event => event.preventDefault());
  form.addEventListener("input", () => { limit = data.first; show(); });
  more.addEventListener("click", () => { limit *= 2; show(); });
  form.hidden = false;
  show();
}
document.querySelectorAll(".samples").forEach(showSamples);
