// Pages that come anew by themselves (#live) do so once the server says that something has changed, at most once
// a second, and while they are seen. Without this they ask every ten seconds, as they do beside it.
(() => {
  let stream = null, due = false;
  const page = () => document.querySelector("#live[hx-get]");
  const refresh = () => {
    if (due) return;
    due = true;
    setTimeout(() => { due = false; if (page()) htmx.trigger(page(), "fresh"); }, 300);
  };
  const look = () => {
    const wanted = page() !== null && document.visibilityState === "visible";
    if (wanted && stream === null) {
      stream = new EventSource("/live");
      stream.addEventListener("change", refresh);
      stream.addEventListener("error", () => { if (stream && stream.readyState === 2) stream = null; });
    } else if (!wanted && stream !== null) {
      stream.close();
      stream = null;
    }
  };
  document.addEventListener("visibilitychange", () => { look(); if (stream !== null) refresh(); });
  addEventListener("pagehide", () => { if (stream !== null) { stream.close(); stream = null; } });
  look();
})();
