"use strict";
// Sorts tables by a click on a header, and hides rows that lack the words of the filter. Without it everything is readable.
(() => {
  const value = (row, place, numeric) => {
    const cell = row.cells[place];
    if (!numeric) return cell.textContent.trim();
    const number = parseFloat(cell.dataset.v);
    return Number.isNaN(number) ? null : number;
  };
  const order = (numeric, sign) => (a, b) => {
    if (a[0] === b[0]) return a[2] - b[2];
    if (numeric) {
      if (a[0] === null) return 1; // what has no value stays last, whichever way round
      if (b[0] === null) return -1;
      return sign * (a[0] - b[0]);
    }
    return sign * a[0].localeCompare(b[0], undefined, { numeric: true });
  };
  const sort = (header) => {
    const table = header.closest("table");
    const body = table.tBodies[0];
    const place = header.cellIndex;
    const numeric = header.classList.contains("n");
    const up = header.getAttribute("aria-sort") !== "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", up ? "ascending" : "descending");
    const keyed = Array.from(body.rows, (row, at) => [value(row, place, numeric), row, at]);
    keyed.sort(order(numeric, up ? 1 : -1));
    body.append(...keyed.map((entry) => entry[1]));
  };
  document.addEventListener("click", (event) => {
    const header = event.target.closest("thead th");
    if (header) sort(header);
  });
  const filter = (input) => {
    const table = document.getElementById(input.dataset.for);
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of table.tBodies[0].rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      if (!row.hidden) shown += 1;
    }
    const count = input.parentElement.querySelector("output");
    count.textContent = words.length ? `${shown} of ${table.tBodies[0].rows.length} rows` : "";
  };
  for (const input of document.querySelectorAll("input[data-for]")) {
    input.parentElement.hidden = false;
    input.addEventListener("input", () => filter(input));
    if (input.value) filter(input); // a browser keeps it over a reload
  }
})();
