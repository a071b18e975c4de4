using System;
using System.Linq;
using System.Threading;
using System.Windows.Forms;
using Tanist.Client;

namespace WallController
{
    static class Program
    {
        [STAThread]
        static int Main(string[] args)
        {
            var simulate = args.Contains("--simulate");
            var token = Environment.GetEnvironmentVariable("TANIST_TOKEN");
            var hosts = args.FirstOrDefault(arg => !arg.StartsWith("--", StringComparison.Ordinal));
            if (hosts == null)
            {
                Console.Error.WriteLine("usage: WallController pc-1:8080,pc-2:8080,pc-3:8080 [--simulate]");
                Console.Error.WriteLine("The environment's TANIST_TOKEN, if there is one, is the token.");
                Console.Error.WriteLine("--simulate: play the nine nodes too, so that there is something to see without them");
                return 2;
            }
            var options = new ClientOptions(hosts) { Token = string.IsNullOrEmpty(token) ? null : token };
            Application.EnableVisualStyles();
            // A form installs its context when it is made; the client must be made after that, to tell its changes there.
            if (SynchronizationContext.Current == null)
                SynchronizationContext.SetSynchronizationContext(new WindowsFormsSynchronizationContext());
            using (var client = new TanistClient(options))
            using (var stop = new CancellationTokenSource())
            {
                if (simulate) Simulator.Start(options, stop.Token);
                Application.Run(new MainForm(client, stop.Token));
                stop.Cancel();
            }
            return 0;
        }
    }
}
