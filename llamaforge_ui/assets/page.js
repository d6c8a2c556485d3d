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

  // What is typed survives a reload, also the one with which Gradio answers a restart of the program.
  keepDraft(text) {
    try { sessionStorage.setItem("llamaforge-draft", text ?? ""); } catch { /* a browser that keeps nothing */ }
  },
  // Puts a text into the message box as if it had been typed.
  write(text) {
    const box = document.querySelector("#chat-input textarea");
    box.value = text;
    box.dispatchEvent(new Event("input", { bubbles: true }));
  },
  draft() {
    try { return sessionStorage.getItem("llamaforge-draft") ?? ""; } catch { return ""; }
  },

  // Saves a text as a file of the visitor's, without any file on the server.
  download(text, name) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
    link.download = name;
    link.click();
    URL.revokeObjectURL(link.href);
  },

  // Hands an act to the server: turns.py and sidebar.py write the buttons, chat_acts.py knows what they do.
  act: "{}",
  backend: "", // of the model that is to be registered
  file: "",
  takeFile() {
    const text = window.llamaforge.file;
    window.llamaforge.file = "";
    return text;
  },
  ask(act) {
    window.llamaforge.act = JSON.stringify(act);
    document.getElementById(/^(json|markdown)/.test(act.act) ? "export" : "act").click();
  },

  // Lets the visitor choose files; resolves to none where the visitor changes their mind.
  choose(accept, multiple) {
    return new Promise((resolve) => {
      const field = Object.assign(document.createElement("input"), { type: "file", accept, multiple });
      field.id = "chosen-file";
      field.hidden = true;
      field.addEventListener("change", () => { field.remove(); resolve([...field.files]); });
      field.addEventListener("cancel", () => { field.remove(); resolve([]); });
      document.body.append(field);
      field.click();
    });
  },

  // Says a sentence above the message box, without the server.
  say(text) {
    const line = document.createElement("p");
    line.textContent = text;
    const box = document.createElement("div");
    box.className = "lf-problem";
    box.setAttribute("role", "alert");
    box.append(line);
    const place = document.querySelector("#chat-notice .prose") ?? document.getElementById("chat-notice");
    place?.replaceChildren(box);
  },

  // Puts text files into the message box, where they are seen, and pictures beside it. Nothing is uploaded before Send.
  async attach(text, images, sees) {
    const LONGEST = 200_000;
    let told = "";
    let pictures = JSON.parse(images || "[]");
    for (const file of await window.llamaforge.choose(sees ? "" : "text/*", true)) {
      if (file.type.startsWith("image/") && file.type !== "image/svg+xml") {
        if (!sees) told = "Guests cannot send pictures.";
        else if (pictures.length >= 4) told = "At most 4 pictures fit into one message.";
        else pictures.push(await window.llamaforge.shrink(file).catch(() => (told = `${file.name} is no picture that can be read.`, null)));
        pictures = pictures.filter(Boolean);
        continue;
      }
      if (file.size > LONGEST) { told = `${file.name} is too large: at most ${LONGEST / 1000} KB of text fit into a message.`; continue; }
      const bytes = new Uint8Array(await file.arrayBuffer());
      let content = "";
      try { content = new TextDecoder("utf-8", { fatal: true }).decode(bytes); } catch { content = "\0"; }
      if (content.includes("\0")) { told = `${file.name} is no text file. Text files and pictures can be attached.`; continue; }
      const fence = "`".repeat(Math.max(3, ...(content.match(/`+/g) ?? []).map((run) => run.length + 1)));
      text = `${text ? `${text.trimEnd()}\n\n` : ""}${file.name}:\n${fence}\n${content.trimEnd()}\n${fence}\n`;
    }
    const safe = document.createElement("p");
    safe.textContent = told;
    const line = told ? `<div class="lf-problem" role="alert">${safe.outerHTML}</div>` : "";
    return [text, pictures.length ? JSON.stringify(pictures) : "", window.llamaforge.preview(pictures), line];
  },

  preview(pictures) {
    const shown = pictures.map((url, n) => `<img src="${url}" alt="Attached picture ${n + 1}">`).join("");
    return shown && `<div class="lf-pictures">${shown}<button type="button" data-act="detach">Remove</button></div>`;
  },

  // Makes a picture small enough to send; the server reads it anew.
  async shrink(file) {
    const picture = await createImageBitmap(file);
    const scale = Math.min(1, 1536 / Math.max(picture.width, picture.height));
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [picture.width, picture.height].map((side) => Math.max(1, Math.round(side * scale)));
    const pen = canvas.getContext("2d");
    pen.fillStyle = "white";
    pen.fillRect(0, 0, canvas.width, canvas.height);
    pen.drawImage(picture, 0, 0, canvas.width, canvas.height);
    return canvas.toDataURL("image/jpeg", 0.88);
  },
};

{
  // Gradio draws the chat some time after the page has come.
  const drawn = (id) => new Promise((resolve) => {
    const look = () => {
      const part = document.getElementById(id);
      if (part) resolve(part);
      else setTimeout(look, 200);
    };
    look();
  });
  const chatLog = drawn("chat-log");

  document.addEventListener("input", ({ target }) => {
    if (target.matches?.("#chat-input textarea")) window.llamaforge.keepDraft(target.value);
  });
  chatLog.then(() => {
    const box = document.querySelector("#chat-input textarea");
    if (!box || box.value || !window.llamaforge.draft()) return;
    window.llamaforge.write(window.llamaforge.draft());
  });

  // The list of chats stands beside the chat where there is room for both, and is out of the way where there is not.
  const roomy = () => window.innerWidth >= 1180;
  const historyToggle = () => document.querySelector("#history .toggle-button");
  const historyOpen = () => document.getElementById("history")?.classList.contains("open");
  chatLog.then(() => {
    const toggle = historyToggle();
    if (!toggle) return;
    const name = () => toggle.setAttribute("aria-label", historyOpen() ? "Hide the chats" : "Show the chats");
    new MutationObserver(name).observe(document.getElementById("history"), { attributes: true, attributeFilter: ["class"] });
    name();
    if (roomy() && !historyOpen()) toggle.click();
  });

  let asked = { of: null, at: 0 }; // by which of the offered questions, and when
  // Small buttons of the chat and of the list: what they ask for stands in their data attributes.
  document.addEventListener("click", async (event) => {
    const button = event.target.closest?.("button[data-act]");
    if (!button?.closest("#welcome, .lf-tail, #history-list, #history-notice, #prompt-view, #attached")) return;
    const act = { ...button.dataset };
    if (act.act === "example") {
      const box = document.querySelector("#chat-input textarea");
      const offered = button.parentElement;
      if (asked.of === offered && event.timeStamp < asked.at + 1000) return; // a second click, before the first is drawn
      if (box.value.trim() || document.querySelector("#attached img")) return window.llamaforge.say("Send your message first, or take it out of the box.");
      asked = { of: offered, at: event.timeStamp };
      window.llamaforge.write(button.textContent);
      box.focus();
      return requestAnimationFrame(() => document.getElementById("send").click());
    }
    if (act.act === "register") {
      window.llamaforge.backend = act.backend;
      return document.getElementById("go-register").click();
    }
    if (act.turn) act.turn = Number(act.turn);
    if (act.step) act.step = Number(act.step);
    if (act.act === "import") {
      const [file] = await window.llamaforge.choose(".json,application/json", false);
      if (!file) return;
      if (file.size > 5_000_000) return window.llamaforge.say("This file is too large: at most 5 MB. Export chats one by one.");
      window.llamaforge.file = await file.text();
    }
    if (act.act === "open" && !roomy() && historyOpen()) historyToggle().click();
    window.llamaforge.ask(act);
  });

  // Esc stops the answer, or closes what lies over the page; the arrow up in an empty box edits the last message.
  document.addEventListener("keydown", (event) => {
    if (event.isComposing || event.ctrlKey || event.metaKey || event.altKey) return;
    const box = document.querySelector("#chat-input textarea");
    if (event.key === "Escape") {
      const stop = document.querySelector(window.llamaforge.writing() ? "#stop" : "#stop:not(.lf-off)");
      const close = document.querySelector("#prompt-view [data-act=close]");
      (document.querySelector("#chat-turns .edit-textarea") ? null : stop ?? close)?.click();
    } else if (event.key === "ArrowUp" && event.target === box && !box.value) {
      const edits = document.querySelectorAll("#chat-turns .user-row + .message-buttons [aria-label=Edit]");
      if (!edits.length) return;
      event.preventDefault();
      edits[edits.length - 1].click();
    }
  });

  // The page follows the text while the reader is at its end, and lets go when the reader scrolls up.
  let atEnd = true;
  const page = () => document.scrollingElement;
  const distance = () => page().scrollHeight - page().scrollTop - page().clientHeight;
  let height = 0; // where it changed, the page has moved by itself, and no reader has
  window.addEventListener("scroll", () => {
    if (page().scrollHeight === height || distance() < 80) atEnd = distance() < 80;
    height = page().scrollHeight;
  }, { passive: true });
  window.llamaforge.toEnd = () => { atEnd = true; };
  chatLog.then((log) => new ResizeObserver(() => {
    height = page().scrollHeight;
    if (atEnd && log.offsetParent && log.querySelector("[data-testid=user]")) page().scrollTop = page().scrollHeight;
  }).observe(log));

  // What a row of the chat is, for page.css: with :has() there, each word below would cost a look at every row above.
  const OWN = { edge: ".lf-edge", part: ".lf-tail, .lf-pictures", thought: ".thought-group" };
  const nameRows = (turns) => {
    for (const row of turns.querySelectorAll(".message-row")) {
      const own = Object.keys(OWN).find((name) => row.querySelector(OWN[name])) ?? "";
      if ((row.dataset.own ?? "") !== own) row.dataset.own = own;
    }
  };
  drawn("chat-turns").then((turns) => {
    nameRows(turns);
    new MutationObserver(() => nameRows(turns)).observe(turns, { childList: true, subtree: true });
  });

  // A link that leads elsewhere says where; one that leads to no page leads nowhere.
  const tellHost = (link) => {
    if (!["http:", "https:", "mailto:"].includes(link.protocol)) return link.removeAttribute("href");
    const text = link.textContent.trim().replace(/^https?:\/\//i, "").toLowerCase();
    const told = text.startsWith(link.host) && /^([/?#]|$)/.test(text.slice(link.host.length));
    if (link.host && link.host !== location.host && !told) link.dataset.host = link.host;
  };
  chatLog.then((log) => {
    const tellHosts = (part) => {
      part.querySelectorAll("a[href]").forEach(tellHost);
      // Gradio's name for what the page itself adds to a message.
      part.querySelectorAll("[aria-label$='a component of type html']").forEach((own) => own.setAttribute("aria-label", "About this message"));
    };
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
    target.scrollIntoView({ block: "nearest" });
    if (target.value === exact(target.value)) return;
    target.value = exact(target.value);
    target.dispatchEvent(new Event("input", { bubbles: true }));
  });
}
