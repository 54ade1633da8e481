// Browsers start no worker for pages that are opened from the disk. There a hidden frame runs the
// search instead. MkDocs would otherwise load such a script from the web.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      frame.srcdoc =
        `<script>postMessage = data => parent.postMessage(data, "*")</script>` +
        `<script src="${url}"></script>`
      this.inside = new Promise(resolve => {
        frame.addEventListener("load", () => resolve(frame.contentWindow))
      })
      addEventListener("message", event => {
        if (event.source === frame.contentWindow)
          this.dispatchEvent(new MessageEvent("message", { data: event.data }))
      })
      document.body.append(frame)
    }

    postMessage(data) {
      this.inside.then(window => window.dispatchEvent(new MessageEvent("message", { data })))
    }
  }
}
