using System.Reflection;
using System.Runtime.CompilerServices;

[assembly: AssemblyTitle("Tanist.Client")]
[assembly: AssemblyDescription("Client for a Tanist cluster")]
[assembly: AssemblyVersion("0.1.0.0")]
[assembly: InternalsVisibleTo("Tanist.Client.Tests")]
