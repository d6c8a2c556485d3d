window.llamaforge = {
  // Names this tab's conversation across reloads; other tabs have their own.
  tabKey() {
    try {
      let key = sessionStorage.getItem("llamaforge-tab");
      if (!key) {
        const bytes = crypto.getRandomValues(new Uint8Array(16));
        key = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
        sessionStorage.setItem("llamaforge-tab", key);
      }
      return key;
    } catch {
      return "";
    }
  },

  // Saves a text as a file of the visitor's, without any file on the server.
  download(text, name) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/markdown" }));
    link.download = name;
    link.click();
    URL.revokeObjectURL(link.href);
  },
};

{
  // Gradio draws the chat some time after the page has come.
  const chatLog = new Promise((resolve) => {
    const look = () => {
      const log = document.getElementById("chat-log");
      if (log) resolve(log);
      else setTimeout(look, 200);
    };
    look();
  });

  // The page follows the text while the reader is at its end, and lets go when the reader scrolls up.
  let atEnd = true;
  const page = () => document.scrollingElement;
  const distance = () => page().scrollHeight - page().scrollTop - page().clientHeight;
  window.addEventListener("scroll", () => { atEnd = distance() < 80; }, { passive: true });
  chatLog.then((log) => new ResizeObserver(() => {
    if (atEnd && log.offsetParent && log.querySelector("[data-testid=user]")) page().scrollTop = page().scrollHeight;
  }).observe(log));

  // A link that leads elsewhere says where; one that leads to no page leads nowhere.
  const tellHost = (link) => {
    if (!["http:", "https:", "mailto:"].includes(link.protocol)) return link.removeAttribute("href");
    const text = link.textContent.trim().replace(/^https?:\/\//i, "").toLowerCase();
    const told = text.startsWith(link.host) && /^([/?#]|$)/.test(text.slice(link.host.length));
    if (link.host && link.host !== location.host && !told) link.dataset.host = link.host;
  };
  chatLog.then((log) => {
    const tellHosts = (part) => part.querySelectorAll("a[href]").forEach(tellHost);
    tellHosts(log);
    new MutationObserver((changes) => {
      for (const part of changes.flatMap((change) => [...change.addedNodes])) {
        if (!(part instanceof Element)) continue;
        if (part.matches("a[href]")) tellHost(part);
        tellHosts(part);
      }
    }).observe(log, { childList: true, subtree: true });
  });

  // What is copied or edited is the text without the joiners that convert.py put into it.
  const exact = (text) => text.replace(/(<|!|```|~~~)\u2060/g, "$1");
  if (navigator.clipboard) {
    const write = navigator.clipboard.writeText.bind(navigator.clipboard);
    navigator.clipboard.writeText = (text) => write(exact(text));
  }
  document.addEventListener("copy", (event) => {
    const field = event.target.matches?.("textarea, input") ? event.target : null;
    const selected = field ? field.value.slice(field.selectionStart, field.selectionEnd) : String(getSelection());
    const text = exact(`<${selected}`).slice(1);  // a selection may begin with the joiner
    if (text === selected) return;
    event.clipboardData.setData("text/plain", text);
    event.preventDefault();
  });
  document.addEventListener("focusin", ({ target }) => {
    if (!target.matches(".edit-textarea")) return;
    target.setAttribute("aria-label", "Edit message");  // Gradio gives it no name
    if (target.value === exact(target.value)) return;
    target.value = exact(target.value);
    target.dispatchEvent(new Event("input", { bubbles: true }));
  });
}
