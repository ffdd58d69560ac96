"use strict";
const figures = JSON.parse(document.getElementById("figures").textContent);
const settings = { displaylogo: false, displayModeBar: false };
// Zoom by dragging with a mouse; on a touch screen dragging scrolls the page.
const dragmode = matchMedia("(pointer: fine)").matches ? "zoom" : false;
const fit = new ResizeObserver((entries) => {
  for (const entry of entries) Plotly.Plots.resize(entry.target);
});
for (const figure of figures) {
  figure.spec.layout.dragmode = dragmode;
  Plotly.newPlot(figure.name, figure.spec.data, figure.spec.layout, settings);
  fit.observe(document.getElementById(figure.name));
}
// One legend for all curves: a button per radius shows or hides it everywhere.
for (const button of document.querySelectorAll("button[data-rho]")) {
  button.addEventListener("click", () => {
    const shown = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(shown));
    // Zoom by dragging with a mouse; on a touch screen dragging scrolls the page.
const dragmode = matchMedia("(pointer: fine)").matches ? "zoom" : false;
const fit = new ResizeObserver((entries) => {
  for (const entry of entries) Plotly.Plots.resize(entry.target);
});
for (const figure of figures) {
  figure.spec.layout.dragmode = dragmode;
      const indices = figure.spec.data.flatMap((trace, index) =>
        trace.meta && trace.meta.rho === button.dataset.rho ? [index] : []);
      if (indices.length) Plotly.restyle(figure.name, { visible: shown }, indices);
    }
  });
}
