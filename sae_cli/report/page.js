"use strict";
// The page reads well without this: it sorts the table and shows what a mark says, on touch too.
for (const title of document.querySelectorAll(".mark > title")) {
  title.parentNode.dataset.tip = title.textContent;
  title.remove();
}
for (const cell of document.querySelectorAll("td[title], .null")) {
  cell.dataset.tip = cell.title;
  cell.removeAttribute("title");
}
const body = document.querySelector("#table tbody");
const heads = [...document.querySelectorAll("#table thead th")];
const valueOf = (row, i) => {
  const cell = row.cells[i];
  if (!cell.dataset.metric) return cell.textContent;
  return cell.dataset.value === undefined ? null : Number(cell.dataset.value);
};
const words = new Intl.Collator("en", { numeric: true });
heads.forEach((head, i) => head.querySelector("button").addEventListener("click", () => {
  const down = head.getAttribute("aria-sort") === "ascending";
  heads.forEach((other) => other.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const rows = [...body.rows].sort((a, b) => {
    const x = valueOf(a, i), y = valueOf(b, i);
    if (x === null || y === null) return (x === null) - (y === null);
    const order = typeof x === "number" ? x - y : words.compare(x, y);
    return down ? -order : order;
  });
  body.append(...rows);
}));
