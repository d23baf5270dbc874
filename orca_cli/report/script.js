"use strict";
// Sorts tables by a click on a header, and hides rows that lack the words of the filter. The page is readable without it.
(() => {
  const key = (row, place) => {
    const text = (row.cells[place].firstChild?.textContent ?? "").trim();
    const word = text.replace(/^\* /, "").split(" ")[0]; // the name of a folder may begin with a number without being one
    return place === 0 || word === "" || Number.isNaN(Number(word)) ? text : Number(word);
  };
  const compare = (a, b) => {
    if (typeof a === "number" && typeof b === "number") return a - b;
    if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1; // texts come after numbers
    return a.localeCompare(b, undefined, { numeric: true });
  };
  document.addEventListener("click", (event) => {
    const header = event.target.closest("thead th");
    if (!header) return;
    const body = header.closest("table").tBodies[0];
    const up = header.getAttribute("aria-sort") !== "ascending";
    for (const other of header.parentElement.cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", up ? "ascending" : "descending");
    const place = header.cellIndex;
    const rows = Array.from(body.rows).sort((a, b) => (up ? 1 : -1) * compare(key(a, place), key(b, place)));
    body.append(...rows);
  });
  const filter = (input) => {
    const rows = Array.from(document.getElementById(input.dataset.for).tBodies[0].rows);
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
    const shown = rows.filter((row) => !row.hidden).length;
    input.parentElement.querySelector("output").textContent = words.length ? `${shown} of ${rows.length} rows` : "";
  };
  for (const input of document.querySelectorAll("input[data-for]")) {
    input.parentElement.hidden = false;
    input.addEventListener("input", () => filter(input));
    if (input.value) filter(input); // a browser keeps the words when the page is reloaded
  }
})();
