// Sorting, the filter of claims, and folded parts that open when a link leads into them or the page is printed.
"use strict";
(() => {
  const folded = [...document.querySelectorAll("details")];

  // A link may lead into a folded part.
  const open = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (let part = target; part; part = part.parentElement) if (part.matches("details")) part.open = true;
    if (target) target.scrollIntoView();
  };
  addEventListener("hashchange", open);
  if (location.hash) open();
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = folded.filter((part) => !part.open);
    for (const part of closed) part.open = true;
  });
  addEventListener("afterprint", () => {
    for (const part of closed) part.open = false;
  });

  // Numbers sort by their value, all else by its letters; what has no number comes last.
  const text = (row, column) => row.cells[column].textContent.trim();
  const number = (words) => parseFloat(words.replace(/^[<>] */, "").replace("−", "-"));
  const compare = (column, sign) => (one, other) => {
    const [a, b] = [text(one, column), text(other, column)];
    const [x, y] = [number(a), number(b)];
    if (isNaN(x) !== isNaN(y)) return isNaN(x) - isNaN(y);
    return sign * (isNaN(x) ? a.localeCompare(b) : x - y);
  };
  for (const table of document.querySelectorAll("table.sorted")) {
    const body = table.tBodies[0];
    if (body.rows.length < 2) continue;
    const headers = [...table.tHead.rows[0].cells];
    headers.forEach((header, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = header.textContent;
      header.replaceChildren(button);
      button.addEventListener("click", () => {
        const up = header.getAttribute("aria-sort") !== "ascending";
        for (const each of headers) each.removeAttribute("aria-sort");
        header.setAttribute("aria-sort", up ? "ascending" : "descending");
        body.append(...[...body.rows].sort(compare(column, up ? 1 : -1)));
      });
    });
  }

  // One filter for all claims: by words of a claim, of an arm or of a verdict.
  const place = document.querySelector("[data-filter]");
  if (!place) return;
  const label = document.createElement("label");
  const input = document.createElement("input");
  const said = document.createElement("span");
  label.textContent = "Show claims with ";
  Object.assign(input, { type: "search", placeholder: "refuted, loss, sigmoid …" });
  said.setAttribute("role", "status");
  label.append(input);
  place.append(label, said);
  const claims = [...document.querySelectorAll("details.claim")].map((claim) => ({
    claim,
    own: claim.querySelector(".said").textContent.toLowerCase(),
    rows: [...claim.querySelectorAll("tbody tr")].map((row) => [row, row.textContent.toLowerCase()]),
  }));
  const count = claims.reduce((sum, { rows }) => sum + rows.length, 0);
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const { claim, own, rows } of claims) {
      let left = 0;
      for (const [row, content] of rows) {
        row.hidden = !words.every((word) => own.includes(word) || content.includes(word));
        left += !row.hidden;
      }
      claim.parentElement.hidden = !left;
      claim.open = words.length > 0 && left > 0;
      shown += left;
    }
    for (const theme of document.querySelectorAll(".theme")) theme.hidden = !theme.querySelector(".linked:not([hidden])");
    for (const setting of document.querySelectorAll("details.setting")) setting.open = words.length > 0;
    said.textContent = words.length ? `${shown} of ${count} verdicts` : "";
  });
})();
