using System;
using System.Collections.Generic;
using System.Drawing;
using System.Linq;
using System.Threading;
using System.Threading.Tasks;
using System.Windows.Forms;
using Tanist.Client;

namespace WallController
{
    /// <summary>The wall: nine screens, what to do with the chosen ones, and on which machine all this is.</summary>
    sealed class MainForm : Form
    {
        static readonly Color Good = Color.FromArgb(30, 110, 66), Bad = Color.FromArgb(170, 98, 10), Dark = Color.FromArgb(15, 17, 22);
        const int LinesMax = 200;

        readonly TanistClient client;
        readonly CancellationToken cancel;
        readonly Label link = new Label { Dock = DockStyle.Top, Height = 44, TextAlign = ContentAlignment.MiddleLeft, ForeColor = Color.White, Padding = new Padding(12, 0, 0, 0) };
        readonly ComboBox source = new ComboBox { DropDownStyle = ComboBoxStyle.DropDownList, Width = 130, Margin = new Padding(4, 9, 4, 4) };
        readonly ListBox log = new ListBox { Dock = DockStyle.Fill, BorderStyle = BorderStyle.None, IntegralHeight = false, BackColor = Dark, ForeColor = Color.FromArgb(176, 184, 196) };
        readonly NodeTile[] tiles = new NodeTile[Wall.Size * Wall.Size];
        readonly System.Windows.Forms.Timer timer = new System.Windows.Forms.Timer { Interval = 200 };
        bool reading, dirty = true;
        DateTime read;
        Link broken;

        internal MainForm(TanistClient client, CancellationToken cancel)
        {
            this.client = client;
            this.cancel = cancel;
            Text = "Wall controller";
            ClientSize = new Size(900, 680);
            MinimumSize = new Size(640, 560);
            BackColor = Dark;
            Font = new Font("Sans", 9f);
            link.Font = new Font("Sans", 11f, FontStyle.Bold);

            var grid = new TableLayoutPanel { Dock = DockStyle.Fill, ColumnCount = Wall.Size, RowCount = Wall.Size, Padding = new Padding(6), BackColor = Dark };
            for (var i = 0; i < Wall.Size; i++)
            {
                grid.ColumnStyles.Add(new ColumnStyle(SizeType.Percent, 100f / Wall.Size));
                grid.RowStyles.Add(new RowStyle(SizeType.Percent, 100f / Wall.Size));
            }
            for (var i = 0; i < tiles.Length; i++)
            {
                var tile = tiles[i] = new NodeTile { Selected = i == 0 };
                tile.Click += (sender, e) => Choose(tile);
                grid.Controls.Add(tile, i % Wall.Size, i / Wall.Size);
            }
            for (var i = 1; i <= 9; i++) source.Items.Add("Camera " + i);
            source.Items.Add("Map");
            source.SelectedIndex = 9;

            var bar = new FlowLayoutPanel { Dock = DockStyle.Bottom, Height = 44, Padding = new Padding(6, 0, 0, 0), BackColor = Color.FromArgb(28, 32, 40) };
            bar.Controls.Add(source);
            bar.Controls.Add(Action("Show", () => Desire(new JsonObject { { "power", true }, { "source", source.Text } })));
            bar.Controls.Add(Action("Power on", () => Desire(new JsonObject { { "power", true } })));
            bar.Controls.Add(Action("Power off", () => Desire(new JsonObject { { "power", false } })));
            bar.Controls.Add(Action("Identify", () => Send("identify")));
            bar.Controls.Add(Action("All / none", ChooseAll));
            var below = new Panel { Dock = DockStyle.Bottom, Height = 130, Padding = new Padding(12, 8, 4, 4), BackColor = Dark };
            below.Controls.Add(log);
            Controls.Add(grid);
            Controls.Add(bar);
            Controls.Add(below);
            Controls.Add(link);

            client.LinkChanged += OnLinkChanged;
            timer.Tick += (sender, e) => OnTick();
            Load += (sender, e) => Begin();
        }

        async void Begin()
        {
            ShowLink();
            await Try("found the wall", () => Wall.Found(client, cancel));
            timer.Start();
            await Follow();
        }

        /// <summary>Every change, whoever makes it, reads the wall anew. A server without events is asked every second.</summary>
        async Task Follow()
        {
            var options = new WatchOptions { Kinds = new[] { "node", "desired", "reported", "command", "cluster" } };
            while (!cancel.IsCancellationRequested)
            {
                try
                {
                    await client.WatchAsync(options, OnChange, cancel);
                }
                catch (ProblemException error) when (error.Problem.Code == "not-found")
                {
                    return;
                }
                catch (TanistException error)
                {
                    Say("watch: " + error.Message);
                    dirty = true;
                }
                catch (OperationCanceledException)
                {
                    return;
                }
            }
        }

        void OnChange(ChangeEvent change)
        {
            dirty = true;
            if (change.Kind == "command" || change.Kind == "cluster") Say(change.Kind + " " + change.Subject + ": " + Json.Write(change.Data));
        }

        void OnTick()
        {
            ShowLink();
            if (dirty || DateTime.UtcNow - read > TimeSpan.FromSeconds(1)) ReadWall();
        }

        async void ReadWall()
        {
            if (reading) return;
            reading = true;
            dirty = false;
            await Try("read the wall", async () =>
            {
                foreach (var node in await Wall.Read(client, cancel)) tiles[node.Row * Wall.Size + node.Column].Node = node;
            });
            read = DateTime.UtcNow;
            reading = false;
        }

        /// <summary>Comes on this form's thread, for the client was made there.</summary>
        void OnLinkChanged(object sender, LinkChangedEventArgs e)
        {
            ShowLink();
            if (e.Link.Need != Need.Master) return;
            var pause = broken != null && e.Link.Status == LinkStatus.Connected ? e.Link.Since - broken.Since : (TimeSpan?)null;
            Say(e.Link + (pause.HasValue ? ", after " + pause.Value.TotalMilliseconds.ToString("0") + " ms" : ""));
            broken = e.Link.Status == LinkStatus.Reconnecting ? e.Link : null;
        }

        void ShowLink()
        {
            var now = client.LinkOf(Need.Master);
            link.BackColor = now.Status == LinkStatus.Connected ? Good : Bad;
            if (now.Status == LinkStatus.Reconnecting)
                link.Text = "Reconnecting since " + now.Since.ToLocalTime().ToString("HH:mm:ss") + "  (" + now.For.TotalSeconds.ToString("0.0") + " s)"
                    + (now.Host == null ? "" : "  \u00b7  was on " + (now.Member ?? now.Host));
            else if (now.Status == LinkStatus.Connected)
                link.Text = "On " + (now.Member ?? "a machine") + "  \u00b7  " + now.Host + "  \u00b7  since " + now.Since.ToLocalTime().ToString("HH:mm:ss");
            else link.Text = "Connecting \u2026";
        }

        IEnumerable<string> Chosen
        {
            get { return tiles.Where(tile => tile.Selected && tile.Node != null).Select(tile => tile.Node.Name); }
        }

        void Choose(NodeTile chosen)
        {
            var more = (ModifierKeys & Keys.Control) != 0;
            foreach (var tile in tiles) tile.Selected = tile == chosen ? !more || !tile.Selected : more && tile.Selected;
        }

        Task ChooseAll()
        {
            var all = tiles.All(tile => tile.Selected);
            foreach (var tile in tiles) tile.Selected = !all;
            return Task.FromResult(true);
        }

        async Task Desire(JsonObject patch)
        {
            var nodes = Chosen.ToList();
            await Task.WhenAll(nodes.Select(node => client.PatchDesiredAsync(node, patch, null, cancel)));
            Say("desired of " + string.Join(", ", nodes) + ": " + patch);
            dirty = true;
        }

        async Task Send(string command)
        {
            var sent = await client.SendCommandAsync(command, Chosen.ToList(), null, null, cancel);
            Say("command " + sent.Id + ", " + command + ", to " + string.Join(", ", sent.Nodes));
        }

        Button Action(string text, Func<Task> action)
        {
            var button = new Button { Text = text, AutoSize = true, Height = 28, Margin = new Padding(4, 7, 4, 4), BackColor = Color.FromArgb(60, 70, 88), ForeColor = Color.White, FlatStyle = FlatStyle.Flat };
            button.FlatAppearance.BorderSize = 0;
            button.Click += async (sender, e) =>
            {
                button.Enabled = false;
                await Try(text, action);
                button.Enabled = true;
            };
            return button;
        }

        async Task Try(string what, Func<Task> action)
        {
            try
            {
                await action();
            }
            catch (TanistException error)
            {
                Say(what + ": " + error.Message);
            }
            catch (OperationCanceledException)
            {
                // The form is being closed.
            }
        }

        void Say(string line)
        {
            log.Items.Insert(0, DateTime.Now.ToString("HH:mm:ss.fff") + "  " + line);
            if (log.Items.Count > LinesMax) log.Items.RemoveAt(LinesMax);
        }
    }
}
